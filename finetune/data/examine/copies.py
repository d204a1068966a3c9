"""Near-copies among the training rows, and held-out rows that the training rows give away."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from finetune.data.contamination import Overlap, contamination
from finetune.data.examine.notes import Notes, Sample
from finetune.data.examine.private import masked
from finetune.data.examine.sums import Places, Sums
from finetune.data.similar import near_pairs
from finetune.errors import printable

SHOWN = 60  # characters of a passage that stands on both sides
CODES = {"same": "held-out-trained", "ngram": "held-out-shares", "near": "held-out-near-copy"}


def note_copies(train: Sums, texts: Sequence[str], notes: Notes, processes: int | None) -> None:
    """Note each row that nearly repeats an earlier one; those that repeat one word for word are known already."""
    table = train.table()
    places = Places(train.runs, table)
    pairs = near_pairs(texts, processes=processes)
    later, at = np.unique(pairs.second, return_index=True)
    first = set(np.unique(table["row"], return_index=True)[1].tolist())
    for row, pair in zip(later.tolist(), at.tolist(), strict=True):
        if row in first:
            said = f"is {pairs.similarity[pair]:.0%} alike with {places.where(int(pairs.first[pair]))}"
            notes.note("near-copy", Sample(places.where(row), "", said))


def note_leaks(
    train: Sums,
    held_out: Sums,
    texts: Sequence[str],
    held_texts: Sequence[str],
    notes: Notes,
    *,
    words: int,
    processes: int | None,
) -> None:
    """Note each held-out row that stands in the training rows: whole, in part or nearly; said as `train` says it."""
    places, others = Places(train.runs, train.table()), Places(held_out.runs, held_out.table())
    found = contamination(texts, held_texts, words=words, processes=processes)
    for overlap in _one_each(found.overlaps):
        what = f"this held-out row is {_said(overlap, places.where(overlap.train), words)}"
        notes.add(others.where(overlap.held_out), what, "delete it in one of them", CODES[overlap.kind])


def _one_each(found: Sequence[Overlap]) -> list[Overlap]:
    """The strongest overlap of each held-out row."""
    best: dict[int, Overlap] = {}
    for overlap in found:
        known = best.get(overlap.held_out)
        if known is None or (overlap.kind == "same", overlap.share) > (known.kind == "same", known.share):
            best[overlap.held_out] = overlap
    return [best[row] for row in sorted(best)]


def _said(overlap: Overlap, where: str, words: int) -> str:
    if overlap.kind == "same":
        return f"trained on too, at {where}"
    text = masked(overlap.sample)
    sample = printable(text if len(text) <= SHOWN else f"{text[:SHOWN]}…")
    if overlap.kind == "near":
        return f"nearly the same ({overlap.share:.0%} alike) as one that is trained on, at {where}: {sample!r}"
    return f"in part trained on too ({overlap.share:.0%} of its runs of {words} words), at {where}: {sample!r}"
