"""MinHash sketches: short fingerprints of texts by which near copies are found without comparing all pairs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.data import workers
from finetune.data.likeness.words import Folded, Hashes, Places, batches, keys, windows

PERMUTATIONS = 128
WORDS = 5  # words of a shingle
CHARACTERS = 5  # characters of a shingle of a short text
SHORT = 20  # a text with fewer words is compared by characters
SHORTISH = 30  # and so is one with fewer than these, with a short text
RECALL = 0.9995  # of candidates at the threshold, in theory
SEED = 42


@dataclass(frozen=True)
class Shingles:
    """The hashed shingles of texts: by words, by characters, or both for those near the border."""

    hashes: Hashes
    bounds: Places
    owner: Places  # the text of each list of shingles
    by_characters: NDArray[np.bool_]
    short: NDArray[np.bool_]  # whether that text is to be compared by characters


@dataclass(frozen=True)
class Sketches:
    """The sketches of texts. A text has one by words, one by characters, or both; an empty text has none."""

    keys: Hashes  # of every text, also of those without a sketch
    owner: Places
    by_characters: NDArray[np.bool_]
    short: NDArray[np.bool_]
    sizes: Places  # shingles
    bands: NDArray[np.uint32]  # texts that agree in a band are candidates

    def kept(self, chosen: NDArray[np.bool_]) -> Sketches:
        """These sketches only."""
        return Sketches(
            self.keys,
            self.owner[chosen],
            self.by_characters[chosen],
            self.short[chosen],
            self.sizes[chosen],
            self.bands[chosen],
        )


def band_rows(threshold: float) -> int:
    """The most permutations in a band with which pairs at the threshold are still found."""
    for rows in range(PERMUTATIONS, 1, -1):
        if 1 - (1 - threshold**rows) ** (PERMUTATIONS // rows) >= RECALL:
            return rows
    return 1


def shingles(folded: Folded) -> Shingles:
    """The shingles of folded texts."""
    words = np.diff(folded.word_bounds)
    long = np.flatnonzero(words >= SHORT)
    short = np.flatnonzero((words < SHORTISH) & (words > 0))
    by_words, word_bounds = windows(*_chosen(folded.words, folded.word_bounds, long, WORDS), WORDS)
    characters = _chosen(folded.characters, folded.character_bounds, short, CHARACTERS)
    by_characters, character_bounds = windows(*characters, CHARACTERS)
    owner = np.concatenate((long, short))
    return Shingles(
        np.concatenate((by_words, by_characters)),
        np.concatenate((word_bounds, word_bounds[-1] + character_bounds[1:])),
        owner,
        np.arange(len(owner)) >= len(long),
        words[owner] < SHORT,
    )


def _chosen(values: Hashes, bounds: Places, chosen: Places, least: int) -> tuple[Hashes, Places]:
    """The values of some texts, each filled up to `least`."""
    if len(chosen) == len(bounds) - 1 and (np.diff(bounds) >= least).all():
        return values, bounds
    counts = np.diff(bounds)[chosen]
    found = np.concatenate((np.zeros(1, dtype=np.int64), np.cumsum(np.maximum(counts, least))))
    result = np.zeros(found[-1], dtype=np.uint64)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    result[np.repeat(found[:-1], counts) + within] = values[np.repeat(bounds[:-1][chosen], counts) + within]
    return result, found


def sketch(texts: Sequence[str], threshold: float, processes: int) -> Sketches:
    """The sketches of all texts."""
    rows = band_rows(threshold)
    tasks = ((first, portion, rows) for first, portion in workers.portions(texts))
    return joined(workers.mapped(sketch_portion, tasks, processes), PERMUTATIONS // rows)


def joined(parts: Iterable[Sketches], bands: int) -> Sketches:
    """The parts as one."""
    empty = np.empty(0, dtype=np.int64)
    none = empty.astype(bool)
    start = Sketches(empty.astype(np.uint64), empty, none, none, empty, np.empty((0, bands), dtype=np.uint32))
    every = [start, *parts]
    return Sketches(
        np.concatenate([part.keys for part in every]),
        np.concatenate([part.owner for part in every]),
        np.concatenate([part.by_characters for part in every]),
        np.concatenate([part.short for part in every]),
        np.concatenate([part.sizes for part in every]),
        np.concatenate([part.bands for part in every]),
    )


def sketch_portion(task: tuple[int, list[str], int]) -> Sketches:
    """The sketches of some texts: the index of the first, the texts, the permutations in a band."""
    first, texts, rows = task
    return joined(
        (sketch_folded(folded, first + begin, rows) for begin, folded in batches(texts)), PERMUTATIONS // rows
    )


def sketch_folded(folded: Folded, first: int, rows: int) -> Sketches:
    """The sketches of folded texts, the first of which has the index `first`."""
    found = shingles(folded)
    sizes = np.diff(found.bounds)
    bands = band_keys(signatures(found.hashes, found.bounds), rows, found.by_characters)
    return Sketches(keys(folded.texts), found.owner + first, found.by_characters, found.short, sizes, bands)


def signatures(hashes: Hashes, bounds: Places) -> NDArray[np.uint32]:
    """The MinHash signature of each list of shingles, none of which is empty; by rensa where it is installed."""
    return rensa_signatures(hashes, bounds) if has_rensa() else numpy_signatures(hashes, bounds)


@cache
def has_rensa() -> bool:
    """Whether the package rensa is installed."""
    return find_spec("rensa") is not None


def rensa_signatures(hashes: Hashes, bounds: Places) -> NDArray[np.uint32]:
    from rensa import RMinHash

    matrix: Any = RMinHash.digest_matrix_from_flat_token_hashes(hashes, bounds.astype(np.uint64), PERMUTATIONS, SEED)
    return np.array(matrix.to_rows(), dtype=np.uint32).reshape(-1, PERMUTATIONS)


def numpy_signatures(hashes: Hashes, bounds: Places) -> NDArray[np.uint32]:
    """The signatures, by numpy alone."""
    values = (hashes >> np.uint64(32)).astype(np.uint32)
    result = np.empty((len(bounds) - 1, PERMUTATIONS), dtype=np.uint32)
    if not len(result):
        return result
    hashed, shifted = np.empty_like(values), np.empty_like(values)
    for permutation, factor in enumerate(_factors()):
        np.multiply(values, factor, out=hashed)
        np.right_shift(hashed, np.uint32(15), out=shifted)
        np.bitwise_xor(hashed, shifted, out=hashed)
        np.multiply(hashed, np.uint32(0x2C1B3C6D), out=hashed)
        result[:, permutation] = np.minimum.reduceat(hashed, bounds[:-1])
    return result


@cache
def _factors() -> NDArray[np.uint32]:
    return np.random.default_rng(SEED).integers(2**32, size=PERMUTATIONS, dtype=np.uint32) | np.uint32(1)


def band_keys(signature: NDArray[np.uint32], rows: int, by_characters: NDArray[np.bool_]) -> NDArray[np.uint32]:
    """The bands of each signature, so that sketches by words and by characters never agree."""
    bands = PERMUTATIONS // rows
    parts = signature[:, : bands * rows].reshape(-1, bands, rows)
    result = np.repeat(by_characters.astype(np.uint64)[:, None], bands, axis=1)
    for row in range(rows):
        result += parts[:, :, row]
        result *= np.uint64(0x9E3779B97F4A7C15)
        result ^= result >> np.uint64(29)
    return np.asarray((result * np.uint64(0xA54FF53A5F1D36F1)) >> np.uint64(32), dtype=np.uint32)
