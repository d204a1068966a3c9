"""What a model could learn from preferences besides them: which answer is longer, which vote is frequent."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from finetune.data import store
from finetune.errors import counted

MOST_LONGER = 0.65  # share of the pairs, and chance that a chosen answer is longer than a rejected one
FEWEST_PAIRS = 20  # in fewer, such a share is chance
LENGTH_MEND = "use a length-normalised loss, or add pairs in which the other one is better"


def said_bias(shape: str, path: str) -> Iterator[str]:
    """What is to be said of the rows of a split."""
    if shape == "pair":
        yield from _lengths(store.sizes(path, "chosen_ids"), store.sizes(path, "rejected_ids"))
    elif shape == "vote":
        yield from _votes(store.labels(path))


def _lengths(chosen: NDArray[np.int64], rejected: NDArray[np.int64]) -> Iterator[str]:
    """Whether the length of an answer alone tells which one is better."""
    if len(chosen) < FEWEST_PAIRS:
        return
    for said, one, other in (("longer", chosen, rejected), ("shorter", rejected, chosen)):
        share, chance = float((one > other).mean()), above(one, other)
        if share > MOST_LONGER or chance > MOST_LONGER:
            what = f"the {said} answer is the chosen one in {share:.0%} of {counted(len(one), 'pair')}"
            what = f"{what} (AUC of the length {chance:.2f}), so length may be what is learned"
            yield f"data.train: {what}; {LENGTH_MEND}"


def above(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    """How likely a number of the first is above one of the second; equal ones count half."""
    ordered = np.sort(other)
    below, up_to = np.searchsorted(ordered, one), np.searchsorted(ordered, one, side="right")
    return float((below + up_to).mean() / (2 * len(other)))


def _votes(labels: NDArray[np.bool_]) -> Iterator[str]:
    """How many votes are up and how many down."""
    up = int(labels.sum())
    if not len(labels):
        return
    if up in (0, len(labels)):
        what = f"every vote of {len(labels):,} is {'up' if up else 'down'}"
        yield f"data.train: {what}, so nothing tells good answers from bad ones; add votes of the other kind"
        return
    share = up / len(labels)
    yield f"data.train: {up:,} of {counted(len(labels), 'vote')} are up ({share:.0%}) and {len(labels) - up:,} down"
