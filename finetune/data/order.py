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
    needed, parts, have, epoch = steps * effective_batch, [np.empty(0, dtype=np.int64)], 0, 0
    while have < needed:
        generator = np.random.Generator(np.random.PCG64([seed, epoch]))
        order = generator.permutation(len(lengths)).astype(np.int64)
        if group_by_length:
            order = _grouped(order, np.asarray(lengths), effective_batch, -have % effective_batch, generator)
        if group_by_length and epoch == 0:
            order = _longest_first(order, np.asarray(lengths), effective_batch)
        parts.append(order)
        have, epoch = have + len(order), epoch + 1
    return np.concatenate(parts)[:needed]


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
