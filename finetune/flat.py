"""Flat batches: rows laid end to end without padding, and the proof that a model keeps them apart."""

from __future__ import annotations

from typing import Any

from finetune.errors import RunFailed

PROBED_TOKENS = 64
# Half precision rounds differently when rows stand elsewhere in a batch; a leak between rows is far larger.
MOST_DIFFERENCE = 0.05


def check(model: Any, rows: Any) -> None:
    """Fail the run unless a row behind another one is answered as it is alone: some models look across rows."""
    import torch

    probes = [rows[index]["input_ids"][:PROBED_TOKENS] for index in (0, len(rows) - 1)]
    device = next(model.parameters()).device
    ids = torch.tensor([probes[0] + probes[1]], device=device)
    positions = torch.tensor([[*range(len(probes[0])), *range(len(probes[1]))]], device=device)
    training = model.training
    model.eval()
    with torch.no_grad():
        behind = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0, len(probes[0]) :]
        alone = model(input_ids=ids[:, len(probes[0]) :], use_cache=False).logits[0]
    model.train(training)
    chances, expected = behind.float().softmax(-1), alone.float().softmax(-1)
    if float((chances - expected).abs().max()) > MOST_DIFFERENCE:
        what = "this model looks from one row of a flat batch into another"
        raise RunFailed(f"{what}; set training.batching=grouped")
