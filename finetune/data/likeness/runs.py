"""The runs of words that training rows and held-out rows share, found by reading each side once."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finetune.data import workers
from finetune.data.likeness.similar import Both
from finetune.data.likeness.sketch import PERMUTATIONS, Sketches, band_rows, joined, sketch_folded
from finetune.data.likeness.words import Hashes, Places, batches, distinct, windows


@dataclass(frozen=True)
class Shared:
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


def shared_runs(both: Both, words: int, threshold: float, processes: int) -> Shared:
    """What the two sides share; the memory needed grows with the smaller one."""
    with tempfile.TemporaryDirectory(prefix="finetune-", ignore_cleanup_errors=True) as folder:
        found = _shared(_Reading(both, words, band_rows(threshold), processes, Path(folder) / "runs.npy"))
        _index.cache_clear()
    return found


@dataclass(frozen=True)
class _Runs:
    """Runs of words in some rows of one side, in order."""

    sketches: Sketches
    totals: Places  # runs of every row
    runs: Hashes  # all of them; or those in the index, as numbers there
    at: Places  # where among all of them these are

    def rows(self) -> Places:
        """The row of each run, counted from the first of these rows."""
        return np.searchsorted(np.cumsum(self.totals), self.at, side="right")

    def places(self) -> Places:
        """The place of each run in its row."""
        return self.at - (np.cumsum(self.totals) - self.totals)[self.rows()]


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
    totals: list[Places] = []
    runs: list[Hashes] = []
    places: list[Places] = []
    before = 0
    for begin, folded in batches(texts):
        sketches.append(sketch_folded(folded, first + begin + border, rows_of_band))
        hashes, bounds = windows(folded.words, folded.word_bounds, words)
        totals.append(np.diff(bounds))
        if path is not None:
            at, hashes = _known(path, hashes)
            places.append(at + before)
        runs.append(hashes)
        before += int(bounds[-1])
    return _Runs(
        joined(sketches, PERMUTATIONS // rows_of_band),
        np.concatenate(totals),
        np.concatenate(runs),
        np.concatenate(places) if places else np.arange(before),
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


def _shared(reading: _Reading) -> Shared:
    """Read both sides, the smaller one first."""
    both = reading.both
    held_is_small = len(both.held_out) <= len(both.train)
    small = _gathered(reading.portions(held_is_small, known=False), reading)
    index = distinct(small.runs)
    np.save(reading.index, index, allow_pickle=False)
    small = replace(small, runs=np.searchsorted(index, small.runs).astype(np.uint64))
    small_count, large_count = _Count(len(index)), _Count(len(index))
    small_count.add(small, 0)
    large = _gathered(_counted(reading.portions(not held_is_small, known=True), large_count, held_is_small), reading)
    if held_is_small:
        trained = np.flatnonzero(large_count.counts[small.runs] > 0)
        held, train = replace(small, runs=small.runs[trained], at=small.at[trained]), large
        train_count, held_count = large_count, small_count
    else:
        held, train, train_count, held_count = large, small, small_count, large_count
    return Shared(
        joined([train.sketches, held.sketches], PERMUTATIONS // reading.band_rows),
        held.rows(),
        held.places(),
        held.runs.astype(np.int64),
        held.totals,
        train_count.first,
        train_count.counts,
        held_count.counts,
        train_count.rows,
        held_count.rows,
    )


def _counted(parts: Iterable[_Runs], count: _Count, held_is_small: bool) -> Iterator[_Runs]:
    """The parts, after counting; of training rows the counts are enough, so their runs are let go."""
    first = 0
    for part in parts:
        count.add(part, first)
        first += len(part.totals)
        yield replace(part, runs=part.runs[:0], at=part.at[:0]) if held_is_small else part


def _gathered(parts: Iterable[_Runs], reading: _Reading) -> _Runs:
    every, before, at = list(parts), 0, [np.empty(0, dtype=np.int64)]
    for part in every:
        at.append(part.at + before)
        before += int(part.totals.sum())
    return _Runs(
        joined((part.sketches for part in every), PERMUTATIONS // reading.band_rows),
        np.concatenate([np.empty(0, dtype=np.int64), *(part.totals for part in every)]),
        np.concatenate([np.empty(0, dtype=np.uint64), *(part.runs for part in every)]),
        np.concatenate(at),
    )


class _Count:
    """In how many different rows of a side each run of the index stands, and in which first."""

    def __init__(self, runs: int) -> None:
        self.counts = np.zeros(runs, dtype=np.int64)
        self.first = np.full(runs, np.iinfo(np.int64).max, dtype=np.int64)
        self.rows = 0  # different ones
        self._seen: set[int] = set()

    def add(self, part: _Runs, begin: int) -> None:
        """Count the runs of rows that follow each other, the first of which is `begin`."""
        is_new = np.zeros(len(part.totals), dtype=bool)
        for place, key in enumerate(part.sketches.keys.tolist()):
            if key not in self._seen:
                self._seen.add(key)
                is_new[place] = True
        self.rows += int(is_new.sum())
        rows = part.rows()
        new = is_new[rows]
        codes = distinct(part.runs[new] << np.uint64(32) | (rows[new] + begin).astype(np.uint64))
        found, row = (codes >> np.uint64(32)).astype(np.int64), (codes & np.uint64(0xFFFFFFFF)).astype(np.int64)
        np.minimum.at(self.first, found, row)
        np.add.at(self.counts, found, 1)
