"""The numbers against published values, exact enumeration and simulation."""

import math

import numpy as np
import pytest

from finetune.evaluate import stats
from finetune.evaluate.stats import (
    Comparison,
    holm,
    mcnemar_exact,
    mean_interval,
    paired_difference,
    verdict,
    wilson,
)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_wilson_gives_the_published_limits(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("b", "c", "p"),
    [
        (0, 0, 1.0),
        (3, 3, 1.0),  # twice the tail is over 1
        (0, 5, 2 / 2**5),
        (1, 9, 2 * (1 + 10) / 2**10),
        (9, 1, 2 * (1 + 10) / 2**10),
        (4, 12, 2 * (1 + 16 + 120 + 560 + 1820) / 2**16),
    ],
)
def test_mcnemar_counts_the_tail_exactly(b: int, c: int, p: float) -> None:
    assert mcnemar_exact(b, c) == pytest.approx(p, rel=1e-12)


def test_mcnemar_survives_many_rows() -> None:
    assert mcnemar_exact(0, 5000) == 0.0
    assert 0 < mcnemar_exact(2400, 2600) < 0.01


def test_holm_corrects_step_by_step() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_the_paired_test_of_0_and_1_is_mcnemars() -> None:
    first = [1.0] * 12 + [0.0] * 4 + [1.0] * 20
    second = [0.0] * 12 + [1.0] * 4 + [1.0] * 20
    found = paired_difference(first, second, seed=1)
    assert found.difference == pytest.approx(8 / 36)
    assert found.p == pytest.approx(mcnemar_exact(12, 4))
    assert found.interval[0] < 8 / 36 < found.interval[1]


def test_few_other_scores_are_permuted_exactly() -> None:
    # of the 8 ways to swap, only all and none reach a sum of 0.6
    found = paired_difference([0.5, 0.6, 0.7], [0.4, 0.4, 0.4], seed=1)
    assert found.p == pytest.approx(2 / 8)


def test_many_other_scores_are_permuted_by_chance_near_the_exact_value() -> None:
    rng = np.random.default_rng(3)
    gaps = rng.normal(0.2, 1.0, size=40)
    z = gaps.sum() / math.sqrt((gaps**2).sum())
    expected = math.erfc(abs(z) / math.sqrt(2))
    found = paired_difference(list(gaps), [0.0] * 40, seed=5)
    assert found.p == pytest.approx(expected, abs=0.02)


def test_rows_of_a_cluster_count_as_one() -> None:
    first, second = [1.0] * 10 + [0.0] * 10, [0.0] * 20
    alone = paired_difference(first, second, seed=1)
    together = paired_difference(first, second, seed=1, clusters=[i // 5 for i in range(20)])
    assert alone.difference == together.difference == 0.5
    assert alone.p < 0.01
    assert together.p == pytest.approx(2 / 4)  # two clusters moved: only two of four ways reach the sum
    assert together.interval[1] - together.interval[0] > alone.interval[1] - alone.interval[0]


def test_equal_differences_leave_room_for_rows_not_seen() -> None:
    ahead = paired_difference([1.0] * 20, [0.0] * 20, seed=1)
    assert ahead.interval == pytest.approx((1 - 2 * 0.1611, 1.0), abs=1e-3)
    same = paired_difference([1.0] * 20, [1.0] * 20, seed=1)
    assert same.interval == pytest.approx((-0.1611, 0.1611), abs=1e-3)
    assert same.p == 1.0


def test_the_same_seed_gives_the_same_numbers() -> None:
    rng = np.random.default_rng(0)
    first, second = list(rng.random(30)), list(rng.random(30))
    assert paired_difference(first, second, seed=7) == paired_difference(first, second, seed=7)
    assert paired_difference(first, second, seed=7) != paired_difference(first, second, seed=8)


def test_lists_of_different_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="same rows"):
        paired_difference([1.0, 0.0], [1.0], seed=1)


def _covered(draw_first: float, draw_second: float, rows: int, seed: int) -> bool:
    rng = np.random.default_rng(seed)
    shared = rng.random(rows)  # one difficulty a row makes the two scores depend on each other
    first = ((shared + rng.random(rows)) / 2 < draw_first).astype(float)
    second = ((shared + rng.random(rows)) / 2 < draw_second).astype(float)
    low, high = paired_difference(list(first), list(second), seed=seed).interval
    return low <= _triangle(draw_first) - _triangle(draw_second) <= high


def _triangle(bar: float) -> float:
    """Chance that the mean of two uniform numbers is under the bar."""
    return 2 * bar * bar if bar < 0.5 else 1 - 2 * (1 - bar) ** 2


def test_the_interval_of_a_difference_covers_the_truth_as_often_as_it_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stats, "RESAMPLES", 1000)
    hits = sum(_covered(0.6, 0.45, 80, seed) for seed in range(400))
    # 95 % of 400, give or take three standard errors and the known slight shortness of percentile intervals
    assert 0.91 <= hits / 400 <= 0.985


def test_the_test_raises_false_alarms_no_more_often_than_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "RESAMPLES", 1000)
    alarms = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        first, second = (rng.random(60) < 0.5).astype(float), (rng.random(60) < 0.5).astype(float)
        found = paired_difference(list(first), list(second), seed=seed)
        alarms += verdict(found, found.p) != "inconclusive"
    assert alarms / 400 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)


def test_a_difference_called_detectable_is_seen_four_times_in_five() -> None:
    rng = np.random.default_rng(11)
    detectable = paired_difference(list(rng.normal(0, 1, 100)), [0.0] * 100, seed=1).detectable
    assert detectable == pytest.approx(2.8 / math.sqrt(100), rel=0.2)
    seen = 0
    for seed in range(200):
        sample = np.random.default_rng(seed).normal(0.28, 1, 100)
        seen += abs(sample.mean()) / (sample.std(ddof=1) / 10) > 1.96
    assert 0.7 < seen / 200 < 0.9


def test_means_of_other_scores_get_a_bootstrap_interval() -> None:
    scores = list(np.random.default_rng(2).normal(0.4, 0.1, 200))
    low, high = mean_interval(scores, seed=1)
    assert (low, high) == pytest.approx((0.4 - 1.96 * 0.1 / 200**0.5, 0.4 + 1.96 * 0.1 / 200**0.5), abs=0.012)
    assert mean_interval([1.0, 0.0, 1.0, 1.0], seed=1) == wilson(3, 4)


@pytest.mark.parametrize(
    ("interval", "p", "lower_is_better", "expected"),
    [
        ((0.1, 0.3), 0.001, False, "better"),
        ((-0.3, -0.1), 0.001, False, "worse"),
        ((0.1, 0.3), 0.001, True, "worse"),
        ((-0.3, -0.1), 0.001, True, "better"),
        ((0.1, 0.3), 0.06, False, "inconclusive"),
        ((-0.1, 0.3), 0.001, False, "inconclusive"),
        ((0.0, 0.3), 0.001, False, "inconclusive"),
    ],
)
def test_verdict(interval: tuple[float, float], p: float, lower_is_better: bool, expected: str) -> None:
    comparison = Comparison(sum(interval) / 2, interval, p, 50, 0.1)
    assert verdict(comparison, p, lower_is_better=lower_is_better) == expected


def test_few_rows_are_called_underpowered() -> None:
    few, many = [1.0, 0.0] * 5, [1.0, 0.0] * 500
    assert stats.underpowered(paired_difference(few, few[::-1], seed=1))
    assert not stats.underpowered(paired_difference(many, many[::-1], seed=1))
