"""Near-copies among the training rows, and rows measured on that the training rows give away."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from finetune.data.examine.notes import Notes, Sample
from finetune.data.examine.sums import Places, Sums
from finetune.data.leaks import Compared, note_leak, strongest
from finetune.data.likeness.contamination import contamination
from finetune.data.likeness.similar import near_pairs


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


def as_compared(key: str, sums: Sums, texts: Sequence[str]) -> Compared:
    """The rows of a split, to be compared with others."""
    return Compared(key, texts, Places(sums.runs, sums.table()).where)


def note_leaks(train: Compared, part: Compared, notes: Notes, *, words: int, processes: int | None) -> int:
    """Note each row of a part that stands in the training rows, as `train` says it; how many there are."""
    found = strongest(contamination(train.texts, part.texts, words=words, processes=processes).overlaps)
    for overlap in found:
        note_leak(overlap, train, part, words, notes)
    return len(found)
