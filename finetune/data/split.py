"""Which rows are held out: decided by the row's own content, so that it never depends on the other rows."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from finetune.data.faults import FaultLog
from finetune.data.load import Loaded


def digest(seed: int, row: str) -> int:
    """A seeded 64-bit hash of a row's canonical JSON."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{row}".encode(), digest_size=8).digest(), "big")


def hold_out(rows: Sequence[str], share: float, seed: int) -> NDArray[np.bool_]:
    """True for each row held out: about `share` of them, at least one, never all, equal rows together.

    A row's side depends on its content and the seed alone, so rows added later move none of those there were.
    """
    marks = np.array([digest(seed, row) for row in rows], dtype=np.uint64)
    if share <= 0 or len(np.unique(marks)) < 2:
        return np.zeros(len(rows), dtype=bool)
    held = marks < np.uint64(min(share, 1.0) * (2**64 - 2**11))
    if not held.any():
        held = marks == marks.min()
    elif held.all():
        held = marks != marks.max()
    return np.asarray(held, dtype=bool)


def repeat(rows: Sequence[Loaded], weights: Sequence[float], seed: int) -> list[Loaded]:
    """The rows of one epoch: each source's as often as its weight says, a fraction chosen by seeded hash."""
    if not weights:
        return list(rows)
    found: list[Loaded] = []
    for source, weight in enumerate(weights):
        own = [row for row in rows if row.source == source]
        whole, part = divmod(weight, 1.0)
        found += own * int(whole)
        chosen = sorted(range(len(own)), key=lambda i: digest(seed + 1, f"{i}\0{own[i].json}"))
        found += [own[i] for i in sorted(chosen[: round(part * len(own))])]
    return found


def duplicates(rows: Sequence[Loaded]) -> int:
    """Rows that repeat an earlier one word for word."""
    return len(rows) - len({row.json for row in rows})


def refuse_overlap(train: Sequence[Loaded], held_out: Sequence[Loaded]) -> None:
    """Raise every held-out row that is trained on too: a score on it would mean nothing."""
    places = {row.json: row.where for row in reversed(train)}
    faults = FaultLog()
    for row in held_out:
        if row.json in places:
            faults.add(
                row.where,
                f"this held-out row is trained on too, at {places[row.json]}",
                "delete it in one of them",
                "held-out-trained",
            )
    faults.raise_any()
