"""`finetune pipeline`: runs that start from each other, from one recipe."""

from __future__ import annotations

from finetune.pipeline.recipe import is_pipeline

__all__ = ["is_pipeline"]
