"""The order of the rows: every row once an epoch, little padding, nothing that depends on processes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from finetune.data.order import row_order


def lengths_of(rows: int, seed: int = 0) -> NDArray[np.int64]:
    """Lengths as chat rows have them: log-normal with a mean of about 90."""
    drawn = np.random.default_rng(seed).lognormal(mean=4.2, sigma=0.7, size=rows)
    return np.clip(drawn, 4, 2000).astype(np.int64)


def padding(order: NDArray[np.int64], lengths: NDArray[np.int64], batch: int) -> float:
    """Padded tokens over true tokens, less one."""
    batches = lengths[order].reshape(-1, batch)
    return float(batches.max(axis=1).sum() * batch / batches.sum() - 1)


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize(("rows", "batch"), [(1000, 8), (1003, 8), (10, 4), (8, 8), (3, 8), (1, 8), (7, 1)])
def test_each_epoch_sees_every_row_once(rows: int, batch: int, grouped: bool) -> None:
    steps = -(-rows * 5 // batch)
    order = row_order(lengths_of(rows), steps=steps, effective_batch=batch, seed=1, group_by_length=grouped)
    assert len(order) == steps * batch
    for epoch in range(5):
        assert sorted(order[epoch * rows : (epoch + 1) * rows]) == list(range(rows))


@pytest.mark.parametrize("grouped", [True, False])
def test_longer_run_begins_like_a_shorter_one(grouped: bool) -> None:
    lengths = lengths_of(500)
    long = row_order(lengths, steps=300, effective_batch=8, seed=3, group_by_length=grouped)
    for steps in (1, 20, 62, 63, 130):
        short = row_order(lengths, steps=steps, effective_batch=8, seed=3, group_by_length=grouped)
        assert (short == long[: steps * 8]).all()


@pytest.mark.parametrize("grouped", [True, False])
def test_order_depends_on_the_seed_and_differs_between_epochs(grouped: bool) -> None:
    lengths = lengths_of(160)
    one = row_order(lengths, steps=40, effective_batch=8, seed=1, group_by_length=grouped)
    other = row_order(lengths, steps=40, effective_batch=8, seed=2, group_by_length=grouped)
    assert (one != other).any()
    assert (one[:160] != one[160:]).any()
    assert (one == row_order(lengths, steps=40, effective_batch=8, seed=1, group_by_length=grouped)).all()


def test_grouping_leaves_under_three_percent_of_padding() -> None:
    lengths = lengths_of(4000)
    grouped = row_order(lengths, steps=500, effective_batch=8, seed=1, group_by_length=True)
    plain = row_order(lengths, steps=500, effective_batch=8, seed=1, group_by_length=False)
    assert padding(grouped, lengths, 8) < 0.03
    assert padding(plain, lengths, 8) > 0.5


def test_no_batch_has_a_row_twice_within_an_epoch() -> None:
    lengths = np.full(96, 50)
    order = row_order(lengths, steps=48, effective_batch=8, seed=1, group_by_length=True).reshape(-1, 8)
    assert all(len(set(batch)) == 8 for batch in order)


def test_longest_row_comes_in_the_first_step() -> None:
    lengths = lengths_of(1003)
    order = row_order(lengths, steps=10, effective_batch=8, seed=1, group_by_length=True)
    assert lengths[order[:8]].max() == lengths.max()


def test_long_and_short_batches_are_mixed() -> None:
    lengths = lengths_of(4000)
    order = row_order(lengths, steps=500, effective_batch=8, seed=1, group_by_length=True)
    means = lengths[order].reshape(-1, 8).mean(axis=1)
    assert abs(np.corrcoef(np.arange(500), means)[0, 1]) < 0.15


def test_no_rows_are_an_error() -> None:
    with pytest.raises(ValueError, match="no rows"):
        row_order(np.empty(0, dtype=np.int64), steps=1, effective_batch=1, seed=0, group_by_length=True)
