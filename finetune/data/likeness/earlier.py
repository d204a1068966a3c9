"""Which earlier texts a text may be a near copy of, found so that texts which come later change nothing.

Texts that agree in a band of their sketches share a bucket, in the order in which they came. In a small bucket all
pairs are candidates. In a large one, as a template with slots makes them, a text is a candidate with the first few; and
because those need not be the ones that it is most like, the same is done with what agrees in two and in four bands.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from finetune.data.likeness.sketch import Sketches
from finetune.data.likeness.words import Places

SMALL = 32  # texts of a bucket of which all pairs are candidates
FIRST = 4  # with which every further one is a candidate
TOGETHER = (1, 2, 4)  # bands in which texts agree
PENDING = 8_000_000  # pairs gathered before repeated ones are dropped

Values = NDArray[np.uint64]


def earlier(sketches: Sketches) -> tuple[Places, Places]:
    """Pairs of sketches to be compared, the smaller index first."""
    known, waiting, size = np.empty(0, dtype=np.uint64), [], 0
    for values in _columns(sketches.bands):
        first, second = _pairs(values)
        waiting.append(np.unique(first.astype(np.uint64) << np.uint64(32) | second.astype(np.uint64)))
        size += len(waiting[-1])
        if size > PENDING:
            known, waiting, size = np.unique(np.concatenate((known, *waiting))), [], 0
    found = np.unique(np.concatenate((known, *waiting)))
    return (found >> np.uint64(32)).astype(np.int64), (found & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _columns(bands: NDArray[np.uint32]) -> Iterator[Values]:
    """The bands, each by itself and then in twos and fours."""
    count = bands.shape[1]
    for size in TOGETHER:
        for begin in range(0, count - size + 1, size):
            values = bands[:, begin].astype(np.uint64)
            for band in range(begin + 1, begin + size):
                with np.errstate(over="ignore"):
                    # An odd factor from the golden ratio spreads what came before over all bits.
                    values = (values * np.uint64(0x9E3779B97F4A7C15)) ^ (values >> np.uint64(29))
                values ^= bands[:, band].astype(np.uint64)
            yield values


def _pairs(values: Values) -> tuple[Places, Places]:
    """The candidates among sketches of equal value."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    is_first = np.ones(len(ordered), dtype=bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    begins = np.flatnonzero(is_first)
    begin = np.repeat(begins, np.diff(begins, append=len(ordered)))
    rank = np.arange(len(ordered)) - begin
    counts = np.where(rank < SMALL, rank, FIRST)
    partner = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return order[np.repeat(begin, counts) + partner], order[np.repeat(np.arange(len(ordered)), counts)]
