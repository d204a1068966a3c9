"""The embedded base model: a very small Llama, made by `scripts/make_tiny_model` from text of our own."""

from pathlib import Path

PATH = Path(__file__).parent
REVISION = "tiny-2"
