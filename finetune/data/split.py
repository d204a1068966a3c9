"""Which rows are held out: whole clusters, by the hash of their first row's key; and how often rows are seen."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.data.clusters import Clusters, Key, Placing, Tie
from finetune.data.likeness.passages import shared_runs
from finetune.data.likeness.similar import Pairs, earlier_pairs
from finetune.data.likeness.words import fold
from finetune.data.rows import Row, compared, hashed, question
from finetune.data.shelf import Shelf
from finetune.data.spool import Indices, Spool

# So many rows with the same question are kept together; in further ones it counts as a form, which says nothing.
MOST_ASKED = 100

BATCH = 256  # rows that are normalised together

# What a message says that rows share.
SAME_TEXT, SAME_QUESTION, NEAR_COPY = "the same text", "the same question", "nearly the same text"


@dataclass(frozen=True)
class Split:
    """The sides of all rows."""

    sides: NDArray[np.int8]  # of clusters.TRAIN, HELD_OUT and LEFT_OUT
    ties: dict[int, tuple[Tie, Tie]]  # of each row that is left out, a row of either side that it would tie together
    clusters: Clusters
    joined: tuple[str, ...]  # what made clusters of rows, the most frequent first

    def count(self, side: int) -> int:
        """How many rows a side has."""
        return int((self.sides == side).sum())


class Splitter:
    """Takes rows one after the other, keeps what they can have in common, and places them."""

    def __init__(self, share: float, seed: int, words: int, columns: Sequence[str] = ()) -> None:
        self._share, self._seed, self._words, self._columns = share, seed, words, tuple(columns)
        self._waiting: list[tuple[Row, tuple[str, ...]]] = []
        self._texts = Shelf()  # those that differ, in order
        self._known: dict[int, int] = {}  # hash of a text → its index
        self._asked: Counter[int] = Counter()
        self._text, self._question, self._root = array("q"), array("Q"), array("Q")
        self._groups: list[tuple[int, ...]] = []

    def add(self, row: Row, groups: Sequence[str] = ()) -> None:
        """Take the next row; `groups` is what it holds in each of the columns, "" for nothing."""
        self._waiting.append((row, tuple(groups)))
        if len(self._waiting) == BATCH:
            self._take_waiting()

    def _take_waiting(self) -> None:
        texts = [compared(row) for row, _ in self._waiting]
        same = fold(texts).texts
        asked = fold([question(row) for row, _ in self._waiting]).texts
        for index, (_, groups) in enumerate(self._waiting):
            self._take(texts[index], same[index], asked[index], groups)
        self._waiting.clear()

    def _take(self, text: str, same: str, asked: str, groups: tuple[str, ...]) -> None:
        own = _hash(SAME_TEXT, same)
        if own not in self._known:
            self._known[own] = len(self._texts)
            self._texts.add(text)
        self._text.append(self._known[own])
        asks = self._unless_form(_hash(SAME_QUESTION, asked)) if asked else 0
        self._question.append(asks)
        self._groups.append(tuple(_hash(*pair) if pair[1] else 0 for pair in zip(self._columns, groups, strict=True)))
        strongest = "\0".join(groups) if any(groups) else str(asks or own)
        self._root.append(_hash(str(self._seed), strongest))

    def _unless_form(self, asked: int) -> int:
        """The question, or 0 when so many others ask it that it is a form."""
        self._asked[asked] += 1
        return asked if self._asked[asked] <= MOST_ASKED else 0

    def split(self) -> Split:
        """The sides of the rows taken."""
        self._take_waiting()
        hashes = list(self._known)
        copies = Neighbours(len(hashes), earlier_pairs(self._texts))
        first, second = shared_runs(self._texts, self._words)
        partly = Neighbours(len(hashes), Pairs(first, second, np.ones(len(first))))
        placing = Placing(self._share)
        sides, ties = np.zeros(len(self._text), dtype=np.int8), {}
        for row, text in enumerate(self._text):
            near = [Key(NEAR_COPY, hashes[other]) for other in copies.of(text)]
            near += [Key(f"the same {self._words} words in a row", hashes[other]) for other in partly.of(text)]
            own = Key(SAME_TEXT, hashes[text])
            place = placing.place(own, list(self._keys(row)), near, self._root[row])
            sides[row] = place.side
            if place.ties:
                ties[row] = place.ties
        return Split(sides, ties, placing.clusters(), tuple(kind for kind, _ in placing.joined.most_common()))

    def _keys(self, row: int) -> Iterator[Key]:
        for column, value in zip(self._columns, self._groups[row], strict=True):
            if value:
                yield Key(same_value(column), value)
        if self._question[row]:
            yield Key(SAME_QUESTION, self._question[row])


def same_value(column: str) -> str:
    """What a message says that rows share which have the same value in a column."""
    return f"the same {column}"


class Neighbours:
    """The near copies of each text."""

    def __init__(self, count: int, pairs: Pairs) -> None:
        ends = np.concatenate([pairs.first, pairs.second])
        order = np.lexsort((np.concatenate([pairs.second, pairs.first]), ends))
        self._others = np.concatenate([pairs.second, pairs.first])[order]
        self._similarity = np.concatenate([pairs.similarity, pairs.similarity])[order]
        self._starts = np.searchsorted(ends[order], np.arange(count + 1))

    def of(self, text: int) -> list[int]:
        """The near copies of one text, in their order."""
        found: list[int] = self._others[self._starts[text] : self._starts[text + 1]].tolist()
        return found

    def before(self, text: int) -> Iterator[tuple[int, float]]:
        """The near copies of a text that come before it, and how like it they are."""
        for at in range(self._starts[text], self._starts[text + 1]):
            if self._others[at] < text:
                yield int(self._others[at]), float(self._similarity[at])


def _hash(kind: str, value: str) -> int:
    """A 64-bit hash that is never 0."""
    return hashed(f"{kind}\0{value}")


def _digests(rows: Iterable[str], seed: int) -> NDArray[np.uint64]:
    return np.fromiter((_hash(str(seed), row) for row in rows), dtype=np.uint64)


def repeat(rows: Spool, kept: Indices, counts: Sequence[int], seed: int) -> Indices:
    """The rows of one epoch, by their places: of each source so many, whole rounds and then a seeded choice."""
    sources, found = rows.column("source")[kept], [kept[:0]]
    for source, count in enumerate(counts):
        own = kept[sources == source]
        rounds, rest = divmod(count, len(own)) if len(own) else (0, 0)
        found += [own] * rounds
        if rest:
            texts = (row.json for part in rows.parts(own) for row in part)
            marks = _digests((f"{place}\0{text}" for place, text in enumerate(texts)), seed + 1)
            found.append(own[np.sort(np.argsort(marks, kind="stable")[:rest])])
    return np.concatenate(found)


def duplicates(rows: Spool) -> int:
    """Rows that repeat an earlier one word for word."""
    return len(rows) - len(np.unique(rows.marks()))
