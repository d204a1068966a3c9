"""Flat batches: rows laid end to end without padding, and the proof that a model keeps them apart."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from finetune.errors import RunFailed

# Families whose attention keeps the rows of a flat batch apart by their positions.
KEEP_ROWS_APART = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "smollm3")
PROBED_TOKENS = 64
# In bf16, logits of a row that stands elsewhere in a batch differ by about 1 %; where it sees another row, by 75 %.
MOST_DIFFERENCE = 0.1


def check(model: Any, rows: Any, precision: AbstractContextManager[Any]) -> None:
    """Fail the run unless a row behind another one is answered as it is alone: some models look across rows.

    The model is where it is trained, and `precision` is the context that it is trained in.
    """
    import torch

    probes = [rows[index]["input_ids"][:PROBED_TOKENS] for index in (0, min(1, len(rows) - 1))]
    device = next(model.parameters()).device
    ids = torch.tensor([probes[0] + probes[1]], device=device)
    positions = torch.tensor([[*range(len(probes[0])), *range(len(probes[1]))]], device=device)
    training = model.training
    model.eval()
    with torch.no_grad(), precision:
        behind = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0, len(probes[0]) :]
        alone = model(input_ids=ids[:, len(probes[0]) :], use_cache=False).logits[0]
    model.train(training)
    if not difference(behind.float(), alone.float()) <= MOST_DIFFERENCE:  # not a number is no proof
        what = "this model looks from one row of a flat batch into another"
        raise RunFailed(f"{what}; set training.batching=grouped")


def difference(logits: Any, expected: Any) -> float:
    """How far logits are from those expected, as a share of how far those spread."""
    spread = expected - expected.mean(-1, keepdim=True)
    return float((logits - expected).norm() / spread.norm())
