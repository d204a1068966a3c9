"""Near-copies among the training rows, and held-out rows that the training rows give away."""

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


def note_leaks(
    train: Sums,
    held_out: Sums,
    texts: Sequence[str],
    held_texts: Sequence[str],
    notes: Notes,
    *,
    words: int,
    processes: int | None,
) -> int:
    """Note each held-out row that stands in the training rows, as `train` says it; how many there are."""
    ours = Compared("data.train", texts, Places(train.runs, train.table()).where)
    theirs = Compared("data.eval", held_texts, Places(held_out.runs, held_out.table()).where)
    found = strongest(contamination(texts, held_texts, words=words, processes=processes).overlaps)
    for overlap in found:
        note_leak(overlap, ours, theirs, words, notes)
    return len(found)
