"""Endpoints that speak OpenAI's chat completions: asked many things, none of them twice."""
