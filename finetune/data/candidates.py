"""Which texts may be near copies of each other, from the bands of their sketches.

Texts that agree in a band share a bucket. In a small bucket all pairs are candidates. A template with slots makes
giant ones, where all pairs would be too many: there each text is a candidate with a few representatives, and with
the texts that share one of its rare shingles, which are the words in the slots. So whatever is near belongs to the
same component, and the work grows with the number of texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from finetune.data import workers
from finetune.data.sketch import Sketches, shingles
from finetune.data.words import Hashes, Places, batches, distinct

SMALL_BUCKET = 32  # texts of which all pairs are candidates
SMALL_PRODUCT = 1024  # the same between two sets: texts of one times those of the other
RARE = 32  # a shingle in more texts than this belongs to a template
RARE_KEPT = 16  # rare shingles by which a text is looked up
COUNTERS = 1 << 24
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
        buckets = _bucketed(sketches.bands[:, band], side)
        is_large = _is_large(buckets, side)
        found.add(_all_pairs(buckets, ~is_large, side))
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


def _bucketed(values: NDArray[Scalar], side: NDArray[np.bool_] | None) -> Bucketed:
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


def _is_large(buckets: Bucketed, side: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    if side is None:
        return buckets.sizes > SMALL_BUCKET
    first, second = _counts(buckets, side)
    return first * second > SMALL_PRODUCT


def _all_pairs(buckets: Bucketed, chosen: NDArray[np.bool_], side: NDArray[np.bool_] | None) -> tuple[Places, Places]:
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
        buckets = _bucketed(sketches.bands[:, band], side)
        for bucket in np.flatnonzero(_is_large(buckets, side)):
            begin = buckets.begins[bucket]
            members = buckets.order[begin : begin + buckets.sizes[bucket]]
            family[members] = True
            parts = [members] if side is None else [members[~side[members]], members[side[members]]]
            for part, others in zip(parts, reversed(parts), strict=True):
                for best in {_first_least(part, -weight), _first_least(part, sketches.sizes)}:
                    rest = others[others != best]
                    found.add((np.full(len(rest), best), rest))
    return family


def _first_least(members: Places, value: Places) -> int:
    least = members[value[members] == value[members].min()]
    return int(least.min())


def _by_rare_shingles(
    sketches: Sketches, family: NDArray[np.bool_], side: NDArray[np.bool_] | None, texts: Sequence[str], processes: int
) -> tuple[Places, Places]:
    """Pairs of texts in large buckets that share a shingle which is rare among them."""
    owners = np.unique(sketches.owner[family])
    counts = np.zeros(COUNTERS, dtype=np.uint32)
    for _, hashes in workers.mapped(_shingle_places, _portions(texts, owners), processes):
        counts += np.bincount(hashes, minlength=COUNTERS).astype(np.uint32)
    values: list[Hashes] = []
    holders: list[Places] = []
    index = np.full((len(sketches.keys), 2), -1, dtype=np.int64)
    index[sketches.owner, sketches.by_characters.astype(np.int64)] = np.arange(len(sketches.owner))
    for portion in _portions(texts, owners):
        for value, owner, by_characters in _rare(portion, counts):
            holder = index[owner, by_characters.astype(np.int64)]
            values.append(value)
            holders.append(holder)
    value, holder = np.concatenate(values), np.concatenate(holders)
    inside = (holder >= 0) & family[holder]
    value, holder = value[inside], holder[inside]
    buckets = _bucketed(value, None if side is None else side[holder])
    own_side = None if side is None else side[holder]
    a, b = _all_pairs(buckets, buckets.sizes <= RARE, own_side)
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


def _shingle_places(task: tuple[Places, list[str]]) -> tuple[Places, Places]:
    """Which counter each shingle of some texts belongs to."""
    owners, texts = task
    found = [_counters(shingles(folded).hashes) for _, folded in batches(texts)]
    return owners, np.concatenate(found)


def _counters(hashes: Hashes) -> Places:
    return (hashes & np.uint64(COUNTERS - 1)).astype(np.int64)


def _rare(
    portion: tuple[Places, list[str]], counts: NDArray[np.uint32]
) -> Iterator[tuple[Hashes, Places, NDArray[np.bool_]]]:
    """The smallest rare shingles of each text, its index, and whether they are of characters."""
    owners, texts = portion
    for begin, folded in batches(texts):
        found = shingles(folded)
        of = np.repeat(np.arange(len(found.owner)), np.diff(found.bounds))
        rare = counts[_counters(found.hashes)] <= RARE
        hashes, of = found.hashes[rare], of[rare]
        order = np.lexsort((hashes, of))
        hashes, of = hashes[order], of[order]
        kept = _within(np.bincount(of, minlength=len(found.owner))) < RARE_KEPT
        hashes, of = hashes[kept], of[kept]
        yield hashes, owners[found.owner[of] + begin], found.by_characters[of]
