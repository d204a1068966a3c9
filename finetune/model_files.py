"""What a model is, read from its files alone: no torch, no weights in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class AdapterFacts:
    """An adapter that `model.name` holds."""

    path: str
    base_name: str
    rank: int
    peft_type: str


@dataclass(frozen=True)
class ModelFacts:
    """A base model on disk (or in the hub's cache), as far as its files tell."""

    name: str  # as the user gave it
    path: str  # the folder that holds config.json and weights
    revision: str | None
    model_type: str  # such as llama
    architecture: str  # such as LlamaForCausalLM
    hidden_size: int
    layers: int
    vocab_size: int
    context: int | None  # longest sequence it was made for
    parameters: int
    dtype: str  # of the stored weights
    tied_embeddings: bool
    linear_shapes: Mapping[str, tuple[int, int]]  # full name of each linear layer (lm_head left out) → (out, in)
    fingerprint: str  # changes when configuration or weights change
    adapter: AdapterFacts | None = None


def inspect_model(name: str, revision: str | None = None, trust_remote_code: bool = False) -> ModelFacts:
    """Read a model's files; every fault found in them is raised at once as a UserError."""
    raise NotImplementedError
