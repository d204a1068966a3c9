"""Near copies among texts: equal once normalised, or sharing most of their shingles."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.data import workers
from finetune.data.likeness.candidates import candidates
from finetune.data.likeness.earlier import earlier
from finetune.data.likeness.sketch import Sketches, shingles, sketch
from finetune.data.likeness.words import Hashes, Places, batches, distinct

BLOCK_PAIRS = 50_000  # pairs that are compared together


@dataclass(frozen=True)
class Pairs:
    """Pairs of similar texts, sorted, and how similar each is: the Jaccard index of their shingles."""

    first: Places
    second: Places
    similarity: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.first)


def near_pairs(texts: Sequence[str], *, threshold: float = 0.8, processes: int | None = None) -> Pairs:
    """The pairs of texts whose similarity is at least `threshold`; `first` is the smaller index.

    Texts that are equal once normalised are linked as a chain, and only the first of them is compared with other
    texts. Of some dozens of texts or more that are all alike, not every pair is listed: each is paired with the one
    that is most like the others, so that they are in one component.
    """
    count = workers.count(processes, len(texts))
    sketches = sketch(texts, _checked(threshold), count)
    first, group = _groups(sketches.keys)
    chained = _chains(group)
    sketches = sketches.kept(first[group[sketches.owner]] == sketches.owner)
    near = _compared(sketches, None, texts, threshold, count)
    return _sorted([chained, near])


def earlier_pairs(texts: Sequence[str], *, threshold: float = 0.8, processes: int | None = None) -> Pairs:
    """Pairs as `near_pairs` has them; whether a pair is listed does not depend on the texts after it.

    The texts must differ once normalised.
    """
    count = workers.count(processes, len(texts))
    sketches = sketch(texts, _checked(threshold), count)
    return _sorted([_near_among(earlier(sketches), sketches, texts, threshold, count)])


def near_between(
    train: Sequence[str], held_out: Sequence[str], *, threshold: float = 0.8, processes: int | None = None
) -> Pairs:
    """The pairs of a training text (`first`) and a held-out text (`second`) that are similar.

    Every text that is similar to one on the other side stands in a pair; of many equal texts not every pair is
    listed.
    """
    both = Both(train, held_out)
    count = workers.count(processes, len(both))
    return between(sketch(both, _checked(threshold), count), both, threshold, count)


@dataclass(frozen=True)
class Both(Sequence[str]):
    """Two sequences of texts as one."""

    train: Sequence[str]
    held_out: Sequence[str]

    def __len__(self) -> int:
        return len(self.train) + len(self.held_out)

    def __getitem__(self, index: int | slice) -> str | list[str]:  # type: ignore[override]
        if isinstance(index, slice):
            begin, end, _ = index.indices(len(self))
            border = len(self.train)
            return [
                *self.train[begin : min(end, border)],
                *self.held_out[max(begin - border, 0) : max(end - border, 0)],
            ]
        border = len(self.train)
        return self.train[index] if index < border else self.held_out[index - border]


def between(sketches: Sketches, both: Both, threshold: float, processes: int) -> Pairs:
    """`near_between` for texts that have their sketches already."""
    border = len(both.train)
    train_first, train_group = _groups(sketches.keys[:border])
    held_first, held_group = _groups(sketches.keys[border:])
    first = np.concatenate((train_first[train_group], held_first[held_group] + border))
    kept = sketches.kept(first[sketches.owner] == sketches.owner)
    near = _compared(kept, kept.owner >= border, both, threshold, processes)
    _, a, b = np.intersect1d(sketches.keys[:border], sketches.keys[border:], return_indices=True)
    equal = Pairs(a, b + border, np.ones(len(a)))
    found = _sorted([equal, near])
    return _spread(found, first, border)


def _spread(pairs: Pairs, first: Places, border: int) -> Pairs:
    """The pairs of first texts, and one pair for each text that is equal to one of them."""
    parts = [pairs]
    every = np.arange(len(first))
    for own, other, low, high in (
        (pairs.first, pairs.second, 0, border),
        (pairs.second, pairs.first, border, len(first)),
    ):
        partner = np.full(len(first), -1, dtype=np.int64)
        similarity = np.zeros(len(first))
        best = np.lexsort((other, -pairs.similarity))[::-1]  # the best is written last
        partner[own[best]], similarity[own[best]] = other[best], pairs.similarity[best]
        copies = every[low:high][(first[low:high] != every[low:high]) & (partner[first[low:high]] >= 0)]
        one, two = copies, partner[first[copies]]
        parts.append(Pairs(np.minimum(one, two), np.maximum(one, two), similarity[first[copies]]))
    found = _sorted(parts)
    return Pairs(found.first, found.second - border, found.similarity)


def components(count: int, pairs: Pairs) -> NDArray[np.int64]:
    """For each of `count` texts the smallest index among those that it is connected with."""
    return _components(count, pairs.first, pairs.second)


def _components(count: int, first: Places, second: Places) -> NDArray[np.int64]:
    label = np.arange(count)
    while len(first):
        a, b = label[first], label[second]
        apart = a != b
        first, second, a, b = first[apart], second[apart], a[apart], b[apart]
        np.minimum.at(label, np.maximum(a, b), np.minimum(a, b))
        while True:
            shorter = label[label]
            if np.array_equal(shorter, label):
                break
            label = shorter
    return label


def _checked(threshold: float) -> float:
    if not 0 < threshold <= 1:
        raise ValueError(f"the threshold must be above 0 and at most 1, got {threshold}")
    return threshold


def _groups(keys: Hashes) -> tuple[Places, Places]:
    """The first text of each group of equal ones, and the group of each text."""
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    return first, group


def _chains(group: Places) -> Pairs:
    order = np.argsort(group, kind="stable")
    same = group[order[1:]] == group[order[:-1]]
    first, second = order[:-1][same], order[1:][same]
    return Pairs(first, second, np.ones(len(first)))


def _sorted(parts: Sequence[Pairs]) -> Pairs:
    first = np.concatenate([part.first for part in parts])
    second = np.concatenate([part.second for part in parts])
    similarity = np.concatenate([part.similarity for part in parts])
    order = np.lexsort((second, first))
    return Pairs(first[order], second[order], similarity[order])


def _compared(
    sketches: Sketches, side: NDArray[np.bool_] | None, texts: Sequence[str], threshold: float, processes: int
) -> Pairs:
    """The similar pairs among the candidates."""
    return _near_among(candidates(sketches, side, texts, processes), sketches, texts, threshold, processes)


def _near_among(
    pairs: tuple[Places, Places], sketches: Sketches, texts: Sequence[str], threshold: float, processes: int
) -> Pairs:
    """The similar ones of these pairs, each compared by its shingles."""
    a, b = pairs
    by_characters = sketches.by_characters[a]
    # Two texts that are not short are compared by words only.
    possible = ~by_characters | sketches.short[a] | sketches.short[b]
    possible &= sketches.keys[sketches.owner[a]] != sketches.keys[sketches.owner[b]]  # equal ones are known already
    a, b, by_characters = a[possible], b[possible], by_characters[possible]
    a, b = sketches.owner[a], sketches.owner[b]
    order = np.lexsort((b, a, _components(len(texts), a, b)[a]))
    a, b, by_characters = a[order], b[order], by_characters[order]
    tasks = _blocks(a, b, by_characters, texts)
    parts = [np.empty(0), *workers.mapped(similarities, tasks, processes)]
    similarity = np.concatenate(parts)
    near = similarity >= threshold
    a, b = np.minimum(a[near], b[near]), np.maximum(a[near], b[near])
    return Pairs(a, b, similarity[near])


Block = tuple[list[str], Places, Places, NDArray[np.bool_]]


def _blocks(first: Places, second: Places, by_characters: NDArray[np.bool_], texts: Sequence[str]) -> Iterator[Block]:
    """The pairs in blocks, each with its texts; pairs of one component follow each other, so few are read twice."""
    begin = 0
    while begin < len(first):
        end, members, size = begin, {}, 0
        while end < len(first) and end - begin < BLOCK_PAIRS and size < workers.TASK_CHARACTERS:
            for index in (int(first[end]), int(second[end])):
                if index not in members:
                    members[index] = texts[index]
                    size += len(members[index])
            end += 1
        names = np.array(sorted(members))
        part = slice(begin, end)
        block = [members[name] for name in names.tolist()]
        yield block, np.searchsorted(names, first[part]), np.searchsorted(names, second[part]), by_characters[part]
        begin = end


def similarities(block: Block) -> NDArray[np.float64]:
    """The Jaccard index of the shingles of each pair of a block."""
    texts, first, second, by_characters = block
    sets, sizes = _sets(texts)
    # The set of text i by words is 2i, by characters 2i + 1.
    a, b = 2 * first + by_characters, 2 * second + by_characters
    a, b = np.where(sizes[a] <= sizes[b], a, b), np.where(sizes[a] <= sizes[b], b, a)
    begins = np.cumsum(sizes) - sizes
    result = np.empty(len(a))
    for begin in range(0, len(a), 4096):
        part = slice(begin, begin + 4096)
        counts = sizes[a[part]]
        place = np.repeat(begins[a[part]] - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        wanted = (sets[place] & _LOW) | np.repeat(b[part], counts).astype(np.uint64) << _SHIFT
        at = np.minimum(np.searchsorted(sets, wanted), len(sets) - 1)
        pair = np.repeat(np.arange(len(counts)), counts)
        shared = np.bincount(pair[sets[at] == wanted], minlength=len(counts))
        result[part] = shared / (counts + sizes[b[part]] - shared)
    return result


_SHIFT = np.uint64(44)  # a block has far fewer sets than 2^20, which leaves 44 bits of each hash
_LOW = np.uint64((1 << 44) - 1)


def _sets(texts: Sequence[str]) -> tuple[Hashes, Places]:
    """The distinct shingles of each text in order, each marked with the number of its set; and the sizes."""
    parts = [np.empty(0, dtype=np.uint64)]
    for begin, folded in batches(texts):
        found = shingles(folded)
        name = (2 * (found.owner + begin) + found.by_characters).astype(np.uint64)
        parts.append(np.repeat(name, np.diff(found.bounds)) << _SHIFT | found.hashes & _LOW)
    sets = distinct(np.concatenate(parts))
    sizes = np.bincount((sets >> _SHIFT).astype(np.int64), minlength=2 * len(texts))
    return sets, sizes
