"""Held-out rows that stand in the training rows too: whole, in part, or nearly."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune.data import workers
from finetune.data.similar import Both, between
from finetune.data.sketch import PERMUTATIONS, Sketches, band_rows, joined, sketch_folded
from finetune.data.words import Hashes, Places, batches, distinct, normalise, windows

# A run of words is a form when this share of the different rows of each side has it, and at least so many rows.
FORM_SHARE = 0.02
FORM_ROWS = 10
# A side of few rows: a tenth of them, but never fewer than this.
FORM_SHARE_OF_FEW = 0.1
FORM_ROWS_OF_FEW = 3

SAMPLE_CHARACTERS = 160
SHOWN_FORMS = 5


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
    form_samples: tuple[str, ...]


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
    with tempfile.TemporaryDirectory(prefix="finetune-", ignore_cleanup_errors=True) as folder:
        reading = _Reading(both, words, band_rows(threshold), count, Path(folder) / "runs.npy")
        shared = _shared(reading)
        _index.cache_clear()
    border = len(train)
    same = _same(shared.sketches.keys, border)
    found = [_overlap(held_out, row, first, "same", 1.0) for row, first in same.items()]
    forms = shared.forms()
    found += [overlap for overlap in shared.leaks(forms, held_out, words) if overlap.held_out not in same]
    near = between(shared.sketches, both, threshold, count)
    for row, at in zip(*np.unique(near.second, return_index=True), strict=True):  # pairs are sorted by training row
        if int(row) not in same:
            found.append(_overlap(held_out, int(row), int(near.first[at]), "near", float(near.similarity[at])))
    return Contamination(
        tuple(sorted(found, key=lambda overlap: (overlap.held_out, _KINDS.index(overlap.kind)))),
        int(forms.sum()),
        tuple(shared.form_samples(forms, held_out, words)),
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


@dataclass(frozen=True)
class _Runs:
    """Runs of words found in some rows of one side."""

    sketches: Sketches
    rows: Places  # within the side
    places: Places  # of the run's first word in its row
    runs: Hashes  # the run's hash, or its number in the index
    totals: Places  # runs of every row


@dataclass(frozen=True)
class _Reading:
    """What both sides are read with."""

    both: Both
    words: int
    band_rows: int
    processes: int
    index: Path  # hashes of all runs of the smaller side, in order

    def portions(self, held_out: bool, known: bool) -> Iterator[_Runs]:
        """The runs of one side; with `known` only those in the index."""
        texts = self.both.held_out if held_out else self.both.train
        border = len(self.both.train) if held_out else 0
        path = str(self.index) if known else None
        tasks = ((first, border, part, self.words, self.band_rows, path) for first, part in workers.portions(texts))
        yield from workers.mapped(_read_portion, tasks, self.processes)


_Task = tuple[int, int, list[str], int, int, str | None]


def _read_portion(task: _Task) -> _Runs:
    first, border, texts, words, rows_of_band, path = task
    sketches: list[Sketches] = []
    rows: list[Places] = []
    places: list[Places] = []
    runs: list[Hashes] = []
    totals: list[Places] = []
    for begin, folded in batches(texts):
        sketches.append(sketch_folded(folded, first + begin + border, rows_of_band))
        hashes, bounds = windows(folded.words, folded.word_bounds, words)
        counts = np.diff(bounds)
        row = np.repeat(np.arange(len(counts)), counts)
        place = np.arange(len(hashes)) - np.repeat(bounds[:-1], counts)
        if path is not None:
            at, hashes = _known(path, hashes)
            row, place = row[at], place[at]
        rows.append(row + first + begin)
        places.append(place)
        runs.append(hashes)
        totals.append(counts)
    return _Runs(
        joined(sketches, PERMUTATIONS // rows_of_band),
        np.concatenate(rows),
        np.concatenate(places),
        np.concatenate(runs),
        np.concatenate(totals),
    )


@lru_cache(maxsize=1)
def _index(path: str) -> tuple[Hashes, NDArray[np.bool_], np.uint64]:
    """The index, and a table that tells of most hashes by their first bits that they are not in it."""
    hashes = np.load(path, mmap_mode="r", allow_pickle=False)
    bits = min(max(len(hashes).bit_length() + 4, 10), 28)
    shift = np.uint64(64 - bits)
    table = np.zeros(1 << bits, dtype=bool)
    table[hashes >> shift] = True
    return hashes, table, shift


def _known(path: str, hashes: Hashes) -> tuple[Places, Hashes]:
    """Which of the hashes are in the index, and the number of each there."""
    index, table, shift = _index(path)
    at = np.flatnonzero(table[hashes >> shift])
    number = np.searchsorted(index, hashes[at])
    number = np.minimum(number, max(len(index) - 1, 0))
    hit = index[number] == hashes[at] if len(at) else np.empty(0, dtype=bool)
    return at[hit], number[hit].astype(np.uint64)


@dataclass(frozen=True)
class _Shared:
    """The runs that both sides have, as they stand in the held-out rows."""

    sketches: Sketches  # of both sides
    rows: Places  # held-out rows, in order
    places: Places
    runs: Places  # numbers in the index
    totals: Places  # runs of every held-out row
    first_train: Places  # for each run in the index the first training row with it
    train_count: Places  # different training rows with it
    held_count: Places
    train_rows: int  # different ones
    held_rows: int

    def forms(self) -> NDArray[np.bool_]:
        """For each run in the index whether it is a form."""
        often_trained = self.train_count >= form_rows(self.train_rows)
        return np.asarray(often_trained & (self.held_count >= form_rows(self.held_rows)))

    def leaks(self, forms: NDArray[np.bool_], held_out: Sequence[str], words: int) -> Iterator[Overlap]:
        """An overlap for each held-out row with enough words in a row that are trained on, besides those of forms."""
        stretches = self._stretches(forms, words)
        for row in distinct(stretches.rows[stretches.leaked].astype(np.uint64)).tolist():
            own = slice(*np.searchsorted(stretches.rows, (row, row + 1)).tolist())
            leaked = np.flatnonzero(stretches.leaked[own]) + own.start
            share = int(stretches.sizes[leaked].sum()) / int(self.totals[row])
            begin, size = int(stretches.begins[leaked[0]]), int(stretches.sizes[leaked[0]])
            at = begin + _first_free(forms[self.runs[begin : begin + size]], words)
            sample = _run(held_out[row], int(self.places[at]), words)
            yield Overlap(int(self.first_train[self.runs[at]]), row, "ngram", share, sample)

    def _stretches(self, forms: NDArray[np.bool_], words: int) -> _Stretches:
        steps = (np.diff(self.rows, prepend=-1) != 0) | (np.diff(self.places, prepend=-1) != 1)
        begins = np.flatnonzero(steps)
        sizes = np.diff(begins, append=len(self.rows))
        stretch = np.cumsum(steps) - 1
        at = np.flatnonzero(forms[self.runs])
        # Each form adds the words that the form before it in the same stretch does not cover.
        same = np.diff(stretch[at], prepend=-1) == 0
        added = np.where(same, np.minimum(np.diff(self.places[at], prepend=0), words), words)
        covered = np.zeros(len(begins), dtype=np.int64)
        np.add.at(covered, stretch[at], added)
        return _Stretches(self.rows[begins], begins, sizes, sizes + words - 1 - covered >= words)

    def form_samples(self, forms: NDArray[np.bool_], held_out: Sequence[str], words: int) -> Iterator[str]:
        """Some forms, the most frequent first."""
        often = np.argsort(-np.where(forms, self.held_count, 0), kind="stable")[:SHOWN_FORMS]
        for run in often[forms[often]].tolist():
            at = int(np.flatnonzero(self.runs == run)[0])
            yield _run(held_out[int(self.rows[at])], int(self.places[at]), words)


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


def _shared(reading: _Reading) -> _Shared:
    """Read both sides, the smaller one first."""
    both = reading.both
    held_is_small = len(both.held_out) <= len(both.train)
    small = _gathered(list(reading.portions(held_is_small, known=False)), reading)
    index = distinct(small.runs)
    np.save(reading.index, index, allow_pickle=False)
    numbers = np.searchsorted(index, small.runs)
    small_count = _Count(len(index))
    small_count.add(small.sketches.keys, 0, small.rows, numbers)
    large_count = _Count(len(index))
    large: list[_Runs] = []
    first = 0
    for part in reading.portions(not held_is_small, known=True):
        large_count.add(part.sketches.keys, first, part.rows, part.runs.astype(np.int64))
        first += len(part.sketches.keys)
        # Of the training rows the counts are enough, so their runs are let go.
        large.append(_without_runs(part) if held_is_small else part)
    rest = _gathered(large, reading)
    train, held = (large_count, small_count) if held_is_small else (small_count, large_count)
    if held_is_small:
        shared = train.counts[numbers] > 0
        rows, places, runs, totals = small.rows[shared], small.places[shared], numbers[shared], small.totals
    else:
        rows, places, runs, totals = rest.rows, rest.places, rest.runs.astype(np.int64), rest.totals
    sides = [rest.sketches, small.sketches] if held_is_small else [small.sketches, rest.sketches]
    sketches = joined(sides, PERMUTATIONS // reading.band_rows)
    return _Shared(sketches, rows, places, runs, totals, train.first, train.counts, held.counts, train.rows, held.rows)


def _gathered(parts: list[_Runs], reading: _Reading) -> _Runs:
    none = np.empty(0, dtype=np.int64)
    return _Runs(
        joined((part.sketches for part in parts), PERMUTATIONS // reading.band_rows),
        np.concatenate([none, *(part.rows for part in parts)]),
        np.concatenate([none, *(part.places for part in parts)]),
        np.concatenate([none.astype(np.uint64), *(part.runs for part in parts)]),
        np.concatenate([none, *(part.totals for part in parts)]),
    )


def _without_runs(part: _Runs) -> _Runs:
    none = np.empty(0, dtype=np.int64)
    return _Runs(part.sketches, none, none, none.astype(np.uint64), none)


class _Count:
    """In how many different rows of a side each run of the index stands, and in which first."""

    def __init__(self, runs: int) -> None:
        self.counts = np.zeros(runs, dtype=np.int64)
        self.first = np.full(runs, np.iinfo(np.int64).max, dtype=np.int64)
        self.rows = 0  # different ones
        self._seen: set[int] = set()

    def add(self, keys: Hashes, begin: int, rows: Places, runs: Places) -> None:
        """Count the runs of rows that follow each other; `rows` is in order, `begin` the first."""
        is_new = np.zeros(len(keys), dtype=bool)
        for place, key in enumerate(keys.tolist()):
            if key not in self._seen:
                self._seen.add(key)
                is_new[place] = True
        self.rows += int(is_new.sum())
        new = is_new[rows - begin]
        codes = distinct((runs[new].astype(np.uint64) << np.uint64(32)) | rows[new].astype(np.uint64))
        found, row = (codes >> np.uint64(32)).astype(np.int64), (codes & np.uint64(0xFFFFFFFF)).astype(np.int64)
        np.minimum.at(self.first, found, row)
        np.add.at(self.counts, found, 1)
