"""Which texts may be near copies of each other, from the bands of their sketches.

Texts that agree in a band share a bucket. In a small bucket all pairs are candidates. A template with slots makes
giant ones, where all pairs would be too many: there each text is a candidate with a few representatives, and with
the texts that share one of its rare shingles, which are the words in the slots. So the work grows with the number of
texts, and what is near still comes into one component, though not by every pair.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from finetune.data import workers
from finetune.data.likeness.sketch import Shingles, Sketches, shingles
from finetune.data.likeness.words import Hashes, Places, batches, distinct

SMALL_BUCKET = 32  # texts of which all pairs are candidates
FEW_PAIRS = 200_000  # of few texts larger buckets are still small, as long as there are about so many pairs at most
RARE = 32  # a shingle in more texts than this belongs to a template
RARE_KEPT = 16  # rare shingles by which a text is looked up
COUNTERS = 1 << 24  # shingles are counted by their last bits
_COUNTER = np.uint64(COUNTERS - 1)
PENDING = 8_000_000  # pairs gathered before repeated ones are dropped

Codes = NDArray[np.uint64]  # a pair of sketches as one number
Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True)
class Bucketed:
    """The sketches in the order of one band's keys, and the runs of equal keys that have a pair."""

    order: Places
    begins: Places
    sizes: Places


def candidates(
    sketches: Sketches, side: NDArray[np.bool_] | None, texts: Sequence[str], processes: int
) -> tuple[Places, Places]:
    """Pairs of sketches to be compared, the smaller index first; with `side` only pairs across the two sides."""
    found = _PairSet()
    weight = np.zeros(len(sketches.owner), dtype=np.int64)
    large = False
    for band in range(sketches.bands.shape[1]):
        buckets = bucketed(sketches.bands[:, band], side)
        is_large = _is_large(buckets, len(sketches.owner), side)
        found.add(all_pairs(buckets, ~is_large, side))
        weight[buckets.order] += np.repeat(buckets.sizes, buckets.sizes)
        large = large or bool(is_large.any())
    if large:
        family = _link_to_representatives(sketches, side, weight, found)
        found.add(_by_rare_shingles(sketches, family, side, texts, processes))
    return found.pairs()


class _PairSet:
    """Pairs of sketches, each kept once."""

    def __init__(self) -> None:
        self._distinct: Codes = np.empty(0, dtype=np.uint64)
        self._new: list[Codes] = []

    def add(self, pairs: tuple[Places, Places]) -> None:
        first, second = np.minimum(*pairs).astype(np.uint64), np.maximum(*pairs).astype(np.uint64)
        self._new.append(distinct(first << np.uint64(32) | second))
        if sum(map(len, self._new)) > PENDING:
            self._merge()

    def _merge(self) -> None:
        self._distinct = distinct(np.concatenate((self._distinct, *self._new)))
        self._new = []

    def pairs(self) -> tuple[Places, Places]:
        self._merge()
        low = np.uint64(0xFFFFFFFF)
        return (self._distinct >> np.uint64(32)).astype(np.int64), (self._distinct & low).astype(np.int64)


def bucketed(values: NDArray[Scalar], side: NDArray[np.bool_] | None) -> Bucketed:
    """Equal values brought together; within a bucket the first side comes first."""
    order = np.argsort(values, kind="stable") if side is None else np.lexsort((side, values))
    ordered = values[order]
    begins = np.flatnonzero(np.concatenate((np.ones(min(len(ordered), 1), dtype=bool), ordered[1:] != ordered[:-1])))
    sizes = np.diff(begins, append=len(ordered))
    paired = sizes > 1
    begins, sizes = begins[paired], sizes[paired]
    inside = np.repeat(begins - np.cumsum(sizes) + sizes, sizes) + np.arange(sizes.sum())
    return Bucketed(order[inside], np.cumsum(sizes) - sizes, sizes)


def _counts(buckets: Bucketed, side: NDArray[np.bool_]) -> tuple[Places, Places]:
    """How many of each bucket are on the first and on the second side."""
    if not len(buckets.sizes):
        return buckets.sizes, buckets.sizes
    second = np.add.reduceat(side[buckets.order].astype(np.int64), buckets.begins)
    return buckets.sizes - second, second


def _is_large(buckets: Bucketed, texts: int, side: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    limit = max(SMALL_BUCKET, FEW_PAIRS // max(texts, 1))
    if side is None:
        return buckets.sizes > limit
    first, second = _counts(buckets, side)
    return first * second > limit**2


def all_pairs(buckets: Bucketed, chosen: NDArray[np.bool_], side: NDArray[np.bool_] | None) -> tuple[Places, Places]:
    """All pairs within each of the chosen buckets."""
    begins, sizes = buckets.begins[chosen], buckets.sizes[chosen]
    if side is not None:
        first, second = (part[chosen] for part in _counts(buckets, side))
        a, b = _products(begins, first, begins + first, second)
        return buckets.order[a], buckets.order[b]
    place = np.repeat(begins, sizes) + _within(sizes)
    left = np.repeat(sizes, sizes) - _within(sizes) - 1  # members after this one
    a = np.repeat(place, left)
    return buckets.order[a], buckets.order[a + 1 + _within(left)]


def _products(first: Places, firsts: Places, second: Places, seconds: Places) -> tuple[Places, Places]:
    """Every place of a first range with every one of the second range beside it."""
    a = np.repeat(np.repeat(first, firsts) + _within(firsts), np.repeat(seconds, firsts))
    totals = firsts * seconds
    b = np.repeat(second, totals) + _within(totals) % np.repeat(np.maximum(seconds, 1), totals)
    return a, b


def _within(counts: Places) -> Places:
    """0, 1, … for each count."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _link_to_representatives(
    sketches: Sketches, side: NDArray[np.bool_] | None, weight: Places, found: _PairSet
) -> NDArray[np.bool_]:
    """Pair the members of each large bucket with its representatives; say who is in one.

    They are the text that shares buckets with the most others, which is the one that the others are copies of, and
    the one with the fewest shingles, which has the least besides the template. Across two sides each side has its
    own.
    """
    family = np.zeros(len(sketches.owner), dtype=bool)
    for band in range(sketches.bands.shape[1]):
        buckets = bucketed(sketches.bands[:, band], side)
        large = _is_large(buckets, len(sketches.owner), side)
        place = np.repeat(buckets.begins[large], buckets.sizes[large]) + _within(buckets.sizes[large])
        members = buckets.order[place]
        bucket = np.repeat(np.arange(large.sum()), buckets.sizes[large])
        family[members] = True
        for own in (None,) if side is None else (False, True):
            chosen = slice(None) if side is None else np.flatnonzero(side[members] == own)
            for value in (-weight, sketches.sizes):
                best = _least(members[chosen], bucket[chosen], value)[bucket]
                linked = best != members if side is None else side[members] != own
                found.add((best[linked], members[linked]))
    return family


def _least(members: Places, bucket: Places, value: Places) -> Places:
    """The member of each bucket with the least value, of equal ones the first."""
    order = np.lexsort((members, value[members], bucket))
    return members[order][np.flatnonzero(np.diff(bucket[order], prepend=-1))]


def _by_rare_shingles(
    sketches: Sketches, family: NDArray[np.bool_], side: NDArray[np.bool_] | None, texts: Sequence[str], processes: int
) -> tuple[Places, Places]:
    """Pairs of texts in large buckets that share a shingle which is rare among them."""
    owners = np.flatnonzero(np.bincount(sketches.owner[family]))
    counts = np.zeros(COUNTERS, dtype=np.uint32)
    for found in workers.mapped(_shingles_of, _portions(texts, owners), processes):
        np.add.at(counts, found.hashes & _COUNTER, np.uint32(1))
    index = np.full((len(sketches.keys), 2), -1, dtype=np.int64)
    index[sketches.owner, sketches.by_characters.astype(np.int64)] = np.arange(len(sketches.owner))
    values, holders = [np.empty(0, dtype=np.uint64)], [np.empty(0, dtype=np.int64)]
    for found in workers.mapped(_shingles_of, _portions(texts, owners), processes):
        value, of = _rarest(found, counts)
        holder = index[found.owner, found.by_characters.astype(np.int64)][of]
        inside = (holder >= 0) & family[holder]
        values.append(value[inside])
        holders.append(holder[inside])
    value, holder = np.concatenate(values), np.concatenate(holders)
    own_side = None if side is None else side[holder]
    buckets = bucketed(value, own_side)
    a, b = all_pairs(buckets, buckets.sizes <= RARE, own_side)
    return holder[a], holder[b]


def _portions(texts: Sequence[str], owners: Places) -> Iterator[tuple[Places, list[str]]]:
    """The texts with the indices given, in lists of bounded size."""
    portion: list[str] = []
    size = first = 0
    for index in owners.tolist():
        portion.append(texts[index])
        size += len(portion[-1])
        if size >= workers.TASK_CHARACTERS:
            yield owners[first : first + len(portion)], portion
            first, size, portion = first + len(portion), 0, []
    if portion:
        yield owners[first:], portion


def _shingles_of(task: tuple[Places, list[str]]) -> Shingles:
    """The shingles of the texts with these indices."""
    owners, texts = task
    parts = [(begin, shingles(folded)) for begin, folded in batches(texts)]
    sizes = [np.diff(part.bounds) for _, part in parts]
    return Shingles(
        np.concatenate([part.hashes for _, part in parts]),
        np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(np.concatenate(sizes)))),
        owners[np.concatenate([part.owner + begin for begin, part in parts])],
        np.concatenate([part.by_characters for _, part in parts]),
        np.concatenate([part.short for _, part in parts]),
    )


def _rarest(found: Shingles, counts: NDArray[np.uint32]) -> tuple[Hashes, Places]:
    """The smallest rare shingles of each list, and the list that each is from."""
    of = np.repeat(np.arange(len(found.owner)), np.diff(found.bounds))
    rare = counts[found.hashes & _COUNTER] <= RARE
    hashes, of = found.hashes[rare], of[rare]
    order = np.lexsort((hashes, of))
    hashes, of = hashes[order], of[order]
    kept = _within(np.bincount(of, minlength=len(found.owner))) < RARE_KEPT
    return hashes[kept], of[kept]
