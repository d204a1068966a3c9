"""Which rows are held out: decided by the row's own content, so that it never depends on the other rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from finetune.data.faults import FaultLog
from finetune.data.spool import Indices, Spool

Hashes = NDArray[np.uint64]


def digest(seed: int, row: str) -> int:
    """A seeded 64-bit hash of a row's canonical JSON."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{row}".encode(), digest_size=8).digest(), "big")


def hold_out(rows: Iterable[str], share: float, seed: int) -> NDArray[np.bool_]:
    """True for each row held out: about `share` of them, at least one, never all, equal rows together.

    A row's side depends on its content and the seed alone, so rows added later move none of those there were.
    """
    marks = _hashes(rows, seed)
    if share <= 0 or len(np.unique(marks)) < 2:
        return np.zeros(len(marks), dtype=bool)
    held = marks < np.uint64(min(share, 1.0) * (2**64 - 2**11))
    if not held.any():
        held = marks == marks.min()
    elif held.all():
        held = marks != marks.max()
    return np.asarray(held, dtype=bool)


def _hashes(rows: Iterable[str], seed: int) -> Hashes:
    return np.fromiter((digest(seed, row) for row in rows), dtype=np.uint64)


def repeat(rows: Spool, kept: Indices, counts: Sequence[int], seed: int) -> Indices:
    """The rows of one epoch, by their places: of each source so many, whole rounds and then a seeded choice."""
    sources, found = rows.column("source")[kept], [kept[:0]]
    for source, count in enumerate(counts):
        own = kept[sources == source]
        rounds, rest = divmod(count, len(own)) if len(own) else (0, 0)
        found += [own] * rounds
        if rest:
            texts = (row.json for part in rows.parts(own) for row in part)
            marks = _hashes((f"{place}\0{text}" for place, text in enumerate(texts)), seed + 1)
            found.append(own[np.sort(np.argsort(marks, kind="stable")[:rest])])
    return np.concatenate(found)


def duplicates(rows: Spool) -> int:
    """Rows that repeat an earlier one word for word."""
    return len(rows) - len(np.unique(_hashes(rows.texts(), 0)))


def refuse_overlap(train: Spool, held_out: Spool) -> None:
    """Raise every held-out row that is trained on too: a score on it would mean nothing."""
    trained, held = _hashes(train.texts(), 0), _hashes(held_out.texts(), 0)
    both, first, _ = np.intersect1d(trained, held, return_indices=True)
    places = dict(zip(both.tolist(), first.tolist(), strict=True))
    faults = FaultLog()
    for index in np.flatnonzero(np.isin(held, both)):
        row, same = held_out[int(index)], train[places[int(held[index])]]
        if row.json == same.json:
            what = f"this held-out row is trained on too, at {same.where}"
            faults.add(row.where, what, "delete it in one of them", "held-out-trained")
    faults.raise_any()
