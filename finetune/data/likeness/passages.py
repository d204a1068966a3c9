"""Texts that have a run of words in common, found so that texts which come later change nothing.

A run belongs to the form of the texts, and says nothing, once a fifth of the texts so far have it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from finetune.data import workers
from finetune.data.likeness.words import Hashes, Places, batches, windows

FORM_SHARE = 0.2  # of the texts so far
FORM_ROWS = 20
FEWEST_BITS, MOST_BITS = 16, 30

Task = tuple[int, list[str], int]


def shared_runs(texts: Sequence[str], words: int, processes: int | None = None) -> tuple[Places, Places]:
    """Pairs of texts: each with the first text that has one of its runs of `words` words; the earlier comes first."""
    count = workers.count(processes, len(texts))
    twice = _seen_twice(texts, words, count)
    parts: list[tuple[Places, Hashes]] = [(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.uint64))]
    for rows, runs in _all_runs(texts, words, count):
        kept = twice[_places(runs, len(twice))]
        parts.append((rows[kept], runs[kept]))
    return _with_first(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _with_first(rows: Places, runs: Hashes) -> tuple[Places, Places]:
    """Each row that has a run with the first that has it, unless so many have it by then that it is a form."""
    order = np.lexsort((rows, runs))
    rows, runs = rows[order], runs[order]
    opens = np.ones(len(runs), dtype=bool)
    opens[1:] = runs[1:] != runs[:-1]
    begins = np.flatnonzero(opens)
    begin = np.repeat(begins, np.diff(begins, append=len(runs)))
    rank = np.arange(len(runs)) - begin
    linked = (rank > 0) & (rank < np.maximum(FORM_ROWS, FORM_SHARE * rows))
    pairs = np.unique(rows[begin[linked]].astype(np.uint64) << np.uint64(32) | rows[linked].astype(np.uint64))
    return (pairs >> np.uint64(32)).astype(np.int64), (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _seen_twice(texts: Sequence[str], words: int, processes: int) -> NDArray[np.bool_]:
    """A table of bits of the hashes: whether two runs with those bits were seen. It keeps most single ones away."""
    total = sum(len(text) for text in texts) // 4
    bits = min(max(total.bit_length() + 2, FEWEST_BITS), MOST_BITS)
    once, twice = np.zeros(1 << bits, dtype=bool), np.zeros(1 << bits, dtype=bool)
    for _, runs in _all_runs(texts, words, processes):
        places, counts = np.unique(_places(runs, len(once)), return_counts=True)
        twice[places[(counts > 1) | once[places]]] = True
        once[places] = True
    return twice


def _places(runs: Hashes, size: int) -> Places:
    return (runs & np.uint64(size - 1)).astype(np.int64)


def _all_runs(texts: Sequence[str], words: int, processes: int) -> Iterator[tuple[Places, Hashes]]:
    tasks: Iterator[Task] = ((first, part, words) for first, part in workers.portions(texts))
    yield from workers.mapped(runs_of, tasks, processes)


def runs_of(task: Task) -> tuple[Places, Hashes]:
    """The different runs of each text, and the text's index."""
    first, texts, words = task
    rows: list[Places] = [np.empty(0, dtype=np.int64)]
    runs: list[Hashes] = [np.empty(0, dtype=np.uint64)]
    for begin, folded in batches(texts):
        found, bounds = windows(folded.words, folded.word_bounds, words)
        row = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds)) + first + begin
        order = np.lexsort((found, row))
        found, row = found[order], row[order]
        new = np.ones(len(found), dtype=bool)
        new[1:] = (found[1:] != found[:-1]) | (row[1:] != row[:-1])
        rows.append(row[new])
        runs.append(found[new])
    return np.concatenate(rows), np.concatenate(runs)
