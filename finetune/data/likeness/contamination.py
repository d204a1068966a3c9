"""Held-out rows that stand in the training rows too: whole, in part, or nearly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.data import workers
from finetune.data.likeness.runs import Shared, shared_runs
from finetune.data.likeness.similar import Both, between
from finetune.data.likeness.words import Hashes, Places, distinct, normalise

# A run of words is a form when this share of the different rows of each side has it, and at least so many rows.
FORM_SHARE = 0.02
FORM_ROWS = 10
# A side of few rows: a tenth of them, but never fewer than this.
FORM_SHARE_OF_FEW = 0.1
FORM_ROWS_OF_FEW = 3

SAMPLE_CHARACTERS = 160


@dataclass(frozen=True)
class Overlap:
    """A held-out row and the first training row that it overlaps with."""

    train: int
    held_out: int
    kind: str  # same: equal once normalised; ngram: a run of words in both; near: similar as a whole
    share: float  # same: 1; ngram: how many of the row's runs are trained on; near: the similarity
    sample: str


@dataclass(frozen=True)
class Contamination:
    """All overlaps, at most one for each held-out row and kind, and what was taken for a form."""

    overlaps: tuple[Overlap, ...]
    forms: int  # runs of words that stand in so many rows of both sides that they belong to the form of the rows


def overlaps(
    train: Sequence[str], held_out: Sequence[str], *, words: int = 13, threshold: float = 0.8
) -> list[Overlap]:
    """The overlaps of `contamination`, sorted by held-out row."""
    return list(contamination(train, held_out, words=words, threshold=threshold).overlaps)


def contamination(
    train: Sequence[str],
    held_out: Sequence[str],
    *,
    words: int = 13,
    threshold: float = 0.8,
    processes: int | None = None,
) -> Contamination:
    """Compare every held-out row with all training rows.

    A run of `words` words that stands in both is a leak, unless it is a form: an instruction or a frame that many
    rows have. A form stands in at least a fiftieth of the different rows of the training side and of the held-out
    side, and in ten rows of each; of a side with fewer than a hundred rows in a tenth, and in three. Words of forms
    do not count: what stands in both, together with the words that happen to follow a form, must have `words`
    others. A row that is equal to a training row is named as that alone. A row with fewer words can be equal or
    near only.
    """
    if words < 1:
        raise ValueError(f"a run has at least one word, got {words}")
    count = workers.count(processes, len(train) + len(held_out))
    both = Both(train, held_out)
    shared = shared_runs(both, words, threshold, count)
    border = len(train)
    same = _same(shared.sketches.keys, border)
    found = [_overlap(held_out, row, first, "same", 1.0) for row, first in same.items()]
    forms = _forms(shared)
    found += [overlap for overlap in _leaks(shared, forms, held_out, words) if overlap.held_out not in same]
    near = between(shared.sketches, both, threshold, count)
    for row, at in zip(*np.unique(near.second, return_index=True), strict=True):  # pairs are sorted by training row
        if int(row) not in same:
            found.append(_overlap(held_out, int(row), int(near.first[at]), "near", float(near.similarity[at])))
    return Contamination(
        tuple(sorted(found, key=lambda overlap: (overlap.held_out, _KINDS.index(overlap.kind)))),
        int(forms.sum()),
    )


_KINDS = ("same", "ngram", "near")


def form_rows(distinct_rows: int) -> int:
    """In how many different rows of a side a run of words must stand to be a form."""
    few = max(FORM_ROWS_OF_FEW, int(np.ceil(FORM_SHARE_OF_FEW * distinct_rows)))
    return max(min(few, FORM_ROWS), int(np.ceil(FORM_SHARE * distinct_rows)))


def _same(keys: Hashes, border: int) -> dict[int, int]:
    """For each held-out row that equals training rows the first of them."""
    known, first = np.unique(keys[:border], return_index=True)
    held = keys[border:]
    if not len(known):
        return {}
    at = np.minimum(np.searchsorted(known, held), len(known) - 1)
    rows = np.flatnonzero(known[at] == held)
    return dict(zip(rows.tolist(), first[at[rows]].tolist(), strict=True))


def _overlap(held_out: Sequence[str], row: int, first: int, kind: str, share: float) -> Overlap:
    beginning = " ".join(held_out[row][: 4 * SAMPLE_CHARACTERS].split())
    return Overlap(first, row, kind, share, beginning[:SAMPLE_CHARACTERS])


def _forms(shared: Shared) -> NDArray[np.bool_]:
    """For each run in the index whether it is a form."""
    often_trained = shared.train_count >= form_rows(shared.train_rows)
    return np.asarray(often_trained & (shared.held_count >= form_rows(shared.held_rows)))


def _leaks(shared: Shared, forms: NDArray[np.bool_], held_out: Sequence[str], words: int) -> Iterator[Overlap]:
    """An overlap for each held-out row with enough words in a row that are trained on, besides those of forms."""
    stretches = _stretches(shared, forms, words)
    for row in distinct(stretches.rows[stretches.leaked].astype(np.uint64)).tolist():
        own = slice(*np.searchsorted(stretches.rows, (row, row + 1)).tolist())
        leaked = np.flatnonzero(stretches.leaked[own]) + own.start
        share = int(stretches.sizes[leaked].sum()) / int(shared.totals[row])
        begin, size = int(stretches.begins[leaked[0]]), int(stretches.sizes[leaked[0]])
        at = begin + _first_free(forms[shared.runs[begin : begin + size]], words)
        sample = _run(held_out[row], int(shared.places[at]), words)
        yield Overlap(int(shared.first_train[shared.runs[at]]), row, "ngram", share, sample)


def _stretches(shared: Shared, forms: NDArray[np.bool_], words: int) -> _Stretches:
    steps = (np.diff(shared.rows, prepend=-1) != 0) | (np.diff(shared.places, prepend=-1) != 1)
    begins = np.flatnonzero(steps)
    sizes = np.diff(begins, append=len(shared.rows))
    stretch = np.cumsum(steps) - 1
    at = np.flatnonzero(forms[shared.runs])
    # Each form adds the words that the form before it in the same stretch does not cover.
    same = np.diff(stretch[at], prepend=-1) == 0
    added = np.where(same, np.minimum(np.diff(shared.places[at], prepend=0), words), words)
    covered = np.zeros(len(begins), dtype=np.int64)
    np.add.at(covered, stretch[at], added)
    return _Stretches(shared.rows[begins], begins, sizes, sizes + words - 1 - covered >= words)


@dataclass(frozen=True)
class _Stretches:
    """Runs that follow each other in a held-out row and are all trained on."""

    rows: Places
    begins: Places  # the first run of each
    sizes: Places
    leaked: NDArray[np.bool_]  # whether they have enough words besides those of forms


def _first_free(forms: NDArray[np.bool_], words: int) -> int:
    """The first run of a stretch that begins with a word of no form, or else the last."""
    end = 0  # of the words that forms cover
    for place, is_form in enumerate(forms.tolist()):
        if is_form:
            end = place + words
        elif place >= end:
            return place
    return len(forms) - 1


def _run(text: str, place: int, words: int) -> str:
    return " ".join(normalise(text).split(" ")[place : place + words])
