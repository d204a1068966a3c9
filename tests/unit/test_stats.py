"""The numbers against published values, scipy 1.17, exact enumeration and simulation."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from finetune.evaluate import stats
from finetune.evaluate.stats import (
    Comparison,
    detectable_difference,
    foretell,
    holm,
    mcnemar_exact,
    mean_interval,
    paired_difference,
    rows_needed,
    student_quantile,
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


# What scipy.stats gives: binomtest(k, n).proportion_ci(method="wilson"), and binomtest(b, b + c).pvalue.
SCIPY_WILSON = {
    (81, 263): (0.25528851987827413, 0.36620957698280004),
    (15, 148): (0.06238639953073629, 0.16048724172330803),
    (1, 29): (0.006113214292762667, 0.17175521879320282),
    (7, 10): (0.396778147461145, 0.892208732593699),
    (0, 20): (0.0, 0.16112515805281935),
}
SCIPY_BINOMIAL = {
    (1, 9): 0.021484375,
    (4, 12): 0.076812744140625,
    (30, 52): 0.0198269158458416,
    (2400, 2600): 0.004883649737517494,
}
# t.ppf(0.975, freedom)
SCIPY_STUDENT = {
    1: 12.706204736174694,
    2: 4.302652729749462,
    3: 3.1824463052837078,
    9: 2.262157162798205,
    10: 2.228138851986274,
    99: 1.9842169515864174,
    500: 1.9647198374673676,
}
GAPS = [0.31, -0.12, 0.05, 0.44, 0.0, -0.27, 0.18, 0.09, 0.33, -0.06, 0.21, 0.15]
SCORES = [0.2, 0.4, 0.9, 0.5, 0.1, 0.3, 0.8, 0.7, 0.6, 1.0]
OWNERS = [0, 0, 0, 1, 1, 2, 3, 3, 4, 5]


def test_closed_forms_are_those_of_scipy() -> None:
    for (successes, n), expected in SCIPY_WILSON.items():
        assert wilson(successes, n) == pytest.approx(expected, abs=1e-6)
    for (b, c), p in SCIPY_BINOMIAL.items():
        assert mcnemar_exact(b, c) == pytest.approx(p, abs=1e-6)
    for freedom, quantile in SCIPY_STUDENT.items():
        assert student_quantile(freedom) == pytest.approx(quantile, abs=1e-6)


def test_resampling_is_that_of_scipy() -> None:
    # bootstrap(…, n_resamples=10000, method="percentile", rng=default_rng(7)) at a level of 1 - 2 × norm.sf(t × √(n / (n - 1)))
    found = paired_difference(GAPS, [0.0] * 12, seed=7)
    assert found.interval == pytest.approx((-0.02083333333333334, 0.23583333333333334), abs=1e-6)
    # permutation_test(…, permutation_type="samples", n_resamples=inf)
    assert found.p == pytest.approx(0.095703125, abs=1e-6)
    # the same bootstrap, of pairs of sum and size
    assert mean_interval(SCORES, 3, clusters=OWNERS) == pytest.approx((1 / 3, 0.825), abs=1e-6)


def test_what_is_detectable_is_the_closed_form() -> None:
    differing = [gap for gap in GAPS if gap] * 10
    found = paired_difference(GAPS * 10, [0.0] * 120, seed=1)
    share, square = wilson(110, 120)[1], np.mean(np.square(differing))
    assert found.detectable == pytest.approx(2.801585218 * math.sqrt(share * square / 120), abs=1e-6)


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


def test_clusters_of_one_row_are_no_clusters() -> None:
    first, second = [1.0] * 12 + [0.0] * 4 + [1.0] * 20, [0.0] * 12 + [1.0] * 4 + [1.0] * 20
    alone = paired_difference(first, second, seed=1)
    assert paired_difference(first, second, seed=1, clusters=list("abcdefghijklmnopqrstuvwxyz0123456789")) == alone
    assert mean_interval(first, 1, clusters=range(36)) == wilson(32, 36)


def test_clusters_widen_the_interval_of_a_mean() -> None:
    scores = [1.0] * 40 + [0.0] * 40
    low, high = mean_interval(scores, 1, clusters=[row // 8 for row in range(80)])
    alone = mean_interval(scores, 1)
    assert high - low > 2 * (alone[1] - alone[0])
    assert low < 0.5 < high


def test_rows_that_are_all_of_one_cluster_say_next_to_nothing() -> None:
    found = paired_difference([1.0, 0.0, 1.0], [0.0, 0.0, 0.5], seed=1, clusters=["a"] * 3)
    assert found.p == 1.0
    assert found.interval[0] < -0.5 and found.interval[1] > 0.8
    assert found.detectable > 1
    assert mean_interval([1.0, 0.0, 1.0], 1, clusters=["a"] * 3) == pytest.approx((0.1376, 0.9312), abs=1e-3)


def test_clusters_with_equal_means_leave_room_for_others() -> None:
    found = paired_difference([1.0, 0.0] * 3, [0.0] * 6, seed=1, clusters=[0, 0, 1, 1, 2, 2])
    assert found.interval[0] < 0 < 0.5 < found.interval[1]


def _covered_in_clusters(count: int, seed: int) -> bool:
    """Whether the interval of a mean of so many clusters, which differ from each other, holds 0.4."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(3, 12, size=count)
    owners = np.repeat(np.arange(count), sizes)
    scores = (rng.random(len(owners)) < rng.beta(2, 3, size=count)[owners]).astype(float)
    low, high = mean_interval(scores.tolist(), 1, clusters=owners.tolist())
    return low <= 0.4 <= high


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8])
def test_intervals_of_few_clusters_are_as_wide_as_they_must_be(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "RESAMPLES", 500)
    assert np.mean([_covered_in_clusters(count, seed) for seed in range(300)]) >= 0.9


def test_two_clusters_with_means_close_together_do_not_pretend_to_know() -> None:
    scores = [1.0] * 5 + [0.0] * 9 + [1.0] * 5 + [0.0] * 8
    low, high = mean_interval(scores, 1, clusters=[0] * 14 + [1] * 13)
    alone = wilson(10, 27)
    assert low < alone[0] + 0.03 and high > alone[1] - 0.03


def test_two_rows_are_never_enough() -> None:
    for first, second in (([1.0, 1.0], [0.0, 0.0]), ([0.9, 0.7], [0.1, 0.2]), ([5.0, 6.0], [1.0, 1.5])):
        found = paired_difference(first, second, seed=1)
        assert found.p >= 0.5
        assert verdict(found, found.p) == "inconclusive"


def test_equal_differences_over_1_stay_inside_their_interval() -> None:
    low, high = paired_difference([4.0] * 10, [1.0] * 10, seed=1).interval
    assert low < 3 <= high


def test_scores_that_are_all_the_same_leave_room_too() -> None:
    low, high = mean_interval([0.5] * 20, seed=1)
    assert (low, high) == pytest.approx((0.5 - 0.1611 / 2, 0.5 + 0.1611 / 2), abs=1e-4)


def test_clusters_of_other_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="2 clusters named for 3 rows"):
        paired_difference([1.0, 0.0, 1.0], [0.0, 0.0, 0.0], seed=1, clusters=[1, 1])


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


Draw = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]


def _f1_like(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Shares, many of them 0 and 1, of rows that are hard or easy for both models."""
    easy = rng.beta(2, 1, 100)
    first, second = (np.clip(easy + rng.normal(0, 0.4, 100), 0, 1) for _ in range(2))
    return first, second


def _fields_like(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    easy = rng.beta(2, 1, 100)
    return rng.binomial(4, easy) / 4, rng.binomial(4, easy) / 4


def _binary(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    return (rng.random(100) < 0.6).astype(float), (rng.random(100) < 0.6).astype(float)


def _clustered(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Thirty documents with four rows each, which a model understands or does not."""
    first, second = (
        np.clip(0.5 + np.repeat(rng.normal(0, 0.3, 30), 4) + rng.normal(0, 0.1, 120), 0, 1) for _ in range(2)
    )
    return first, second


DOCUMENTS = [row // 4 for row in range(120)]


def _null(draw: Draw, clusters: list[int] | None = None, draws: int = 2000) -> tuple[float, float, float]:
    """How often two models of the same worth are told apart: by the verdict, by p alone, by the interval alone."""
    told = np.zeros(3)
    for seed in range(draws):
        first, second = draw(np.random.default_rng(seed))
        found = paired_difference(first.tolist(), second.tolist(), seed=seed, clusters=clusters)
        low, high = found.interval
        told += [verdict(found, found.p) != "inconclusive", found.p < 0.05, not low <= 0 <= high]
    share = told / draws
    return float(share[0]), float(share[1]), float(share[2])


@pytest.mark.parametrize(("draw", "clusters"), [(_f1_like, None), (_fields_like, None), (_clustered, DOCUMENTS)])
def test_models_of_the_same_worth_are_told_apart_in_5_of_100_cases(
    draw: Draw, clusters: list[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stats, "RESAMPLES", 1000)
    for share in _null(draw, clusters):
        assert 0.035 <= share <= 0.065


def test_of_yes_and_no_they_are_told_apart_no_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "RESAMPLES", 1000)
    said, by_p, by_interval = _null(_binary)
    # McNemar's exact test cannot come nearer to 5 of 100 from below
    assert 0.02 <= said <= by_p <= 0.05
    assert by_interval <= 0.065


def test_clusters_that_are_not_told_of_raise_false_alarms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "RESAMPLES", 1000)
    assert _null(_clustered, draws=200)[0] > 0.2


def test_a_difference_called_detectable_is_seen_four_times_in_five() -> None:
    rng = np.random.default_rng(11)
    detectable = paired_difference(list(rng.normal(0, 1, 100)), [0.0] * 100, seed=1).detectable
    assert detectable == pytest.approx(2.8 / math.sqrt(100), rel=0.2)
    seen = 0
    for seed in range(200):
        sample = np.random.default_rng(seed).normal(0.28, 1, 100)
        seen += abs(sample.mean()) / (sample.std(ddof=1) / 10) > 1.96
    assert 0.7 < seen / 200 < 0.9


@pytest.mark.parametrize(("rows", "differing"), [(18, 0), (18, 4), (40, 2), (160, 8), (160, 80)])
def test_so_few_rows_show_what_they_are_said_to_show(rows: int, differing: int) -> None:
    first = [1.0] * (differing // 2) + [0.0] * (rows - differing // 2)
    second = [0.0] * (rows - differing // 2) + [1.0] * (differing // 2)
    least = paired_difference(first, second, seed=1).detectable
    # new rows, of which as many differ as at least have to for such a difference
    share, rng = max(least, 2 * (differing // 2) / rows), np.random.default_rng(0)
    shares = [(share + least) / 2, (share - least) / 2, 1 - share]
    drawn = rng.multinomial(rows, shares, size=2000)
    seen = np.mean([mcnemar_exact(int(b), int(c)) < 0.05 and b > c for b, c, _ in drawn])
    assert seen >= 0.74


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


def test_rows_needed_are_those_of_the_formula() -> None:
    # (z of 97.5 % + z of 80 %)² × discordant share / difference²
    assert rows_needed(0.05) == math.ceil(2.801585218**2 * 0.25 / 0.05**2) == 785
    assert detectable_difference(785) == pytest.approx(0.05, abs=1e-4)
    assert detectable_difference(160) == pytest.approx(0.1107, abs=1e-4)
    assert rows_needed(0.5) == math.ceil(
        2.801585218**2 / 0.5
    )  # a difference needs as many rows that answer differently
    assert detectable_difference(4) == 1.0
    assert foretell(160, 40).detectable_in_groups == detectable_difference(40)


@pytest.mark.parametrize("difference", [0.05, 0.1, 0.2])
def test_so_many_rows_show_the_difference_four_times_in_five(difference: float) -> None:
    rows, rng = rows_needed(difference), np.random.default_rng(0)
    shares = [(0.25 + difference) / 2, (0.25 - difference) / 2, 0.75]
    seen = [mcnemar_exact(int(b), int(c)) < 0.05 and b > c for b, c, _ in rng.multinomial(rows, shares, size=2000)]
    assert 0.76 < np.mean(seen) < 0.84
