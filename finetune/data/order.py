"""The order of the rows: one sequence for the whole run, the same for any number of processes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Effective batches that are sorted by length together. On log-normal lengths in batches of 8, windows of 50
# pad by 6 %, of 200 by 2 %, and each epoch still puts other rows together.
WINDOW = 200

Indices = NDArray[np.int64]


def row_order(
    lengths: NDArray[np.integer], *, steps: int, effective_batch: int, seed: int, group_by_length: bool
) -> Indices:
    """Exactly `steps * effective_batch` row indices: step s trains on the s-th group of `effective_batch`.

    Epochs follow each other without a break, each in its own seeded order, and a batch that an epoch leaves
    short is filled from the next one. A longer run begins like a shorter one with the same seed.
    """
    if len(lengths) == 0:
        raise ValueError("no rows to order")
    needed, parts, have = steps * effective_batch, [np.empty(0, dtype=np.int64)], 0
    while have < needed:
        grouped_by = effective_batch if group_by_length else None
        parts.append(part_order(lengths, number=len(parts) - 1, before=have, seed=seed, grouped_by=grouped_by))
        have += len(lengths)
    return np.concatenate(parts)[:needed]


def part_order(lengths: NDArray[np.integer], *, number: int, before: int, seed: int, grouped_by: int | None) -> Indices:
    """The order of an epoch, or of a window of a stream: its number and the rows before it decide.

    `grouped_by` rows, the effective batch, are of like length.
    """
    generator = np.random.Generator(np.random.PCG64([seed, number]))
    order = generator.permutation(len(lengths)).astype(np.int64)
    if grouped_by is not None:
        order = _grouped(order, np.asarray(lengths), grouped_by, -before % grouped_by, generator)
        if number == 0:
            order = _longest_first(order, np.asarray(lengths), grouped_by)
    return order


def _grouped(
    order: Indices, lengths: NDArray[np.integer], batch: int, short: int, generator: np.random.Generator
) -> Indices:
    """One epoch with rows of similar length in one batch: sorted within windows, whose batches are shuffled.

    The first `short` rows fill the batch that the epoch before left short; rows that fill no batch come last.
    Windows never reach over epochs: sorting would put the same row into one batch several times.
    """
    whole = short + max(len(order) - short, 0) // batch * batch
    parts = [order[:short]]
    for begin in range(short, whole, WINDOW * batch):
        part = order[begin : min(begin + WINDOW * batch, whole)]
        by_length = part[np.argsort(-lengths[part], kind="stable")].reshape(-1, batch)
        parts.append(generator.permutation(by_length).reshape(-1))
    return np.concatenate([*parts, order[whole:]]) if len(order) > short else order


def _longest_first(order: Indices, lengths: NDArray[np.integer], batch: int) -> Indices:
    """The batch with the longest row first: what does not fit into memory fails in the first step."""
    first = int(np.argmax(lengths[order])) // batch * batch
    return np.concatenate([order[first : first + batch], order[:first], order[first + batch :]])
