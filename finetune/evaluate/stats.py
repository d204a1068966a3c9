"""Intervals, paired tests and the verdict. Everything is seeded: the same scores give the same numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Interval = tuple[float, float]

LEVEL = 0.05  # of the two-sided tests; intervals cover 1 - LEVEL
RESAMPLES = 10_000
FEW = 5  # under so many clusters resampling cannot reach as far as new clusters would
POWER = 0.8  # chance of seeing a difference as large as `Comparison.detectable`
COARSE = 0.1  # a comparison that can only see larger differences than this is called underpowered
WANTED = 0.05  # the difference that a plan says how many rows it takes to see
DISCORDANT = 0.25  # share of the rows that a plan takes to be right with one model and wrong with the other
_Z = 1.959963984540054  # the normal quantile of 0.975
_Z_POWER = 0.8416212335729143  # the normal quantile of POWER
_CELLS = 4_000_000  # numbers held at once while resampling


@dataclass(frozen=True)
class Comparison:
    """The mean difference `first - second` over the same rows."""

    difference: float
    interval: Interval
    p: float  # of there being no difference
    rows: int
    detectable: float  # smallest true difference that so many rows of this kind show four times in five


@dataclass(frozen=True)
class Reach:
    """What held-out rows will be able to show, told before there is any answer."""

    rows: int  # that will be answered
    groups: int  # of rows that depend on each other
    detectable: float  # smallest difference that they show four times in five
    detectable_in_groups: float  # the same where all rows of a group are right or wrong together
    wanted: float
    rows_needed: int  # to see the difference that is wanted


def wilson(successes: int, n: int) -> Interval:
    """The 95 % score interval of a share."""
    share, spread = successes / n, _Z * _Z / n
    centre = (share + spread / 2) / (1 + spread)
    margin = _Z / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    # at the ends the formula gives 0 and 1 but for rounding
    return 0.0 if successes == 0 else centre - margin, 1.0 if successes == n else centre + margin


def mean_interval(scores: Sequence[float], seed: int, *, clusters: Sequence[object] | None = None) -> Interval:
    """The 95 % interval of a mean: Wilson's for 0/1 scores of rows on their own, else by bootstrap of clusters."""
    import numpy as np

    values = np.asarray(scores, dtype=np.float64)
    sums, sizes = _clustered(values, clusters)
    if len(sums) == len(values) and _binary(scores):
        return wilson(round(sum(scores)), len(scores))
    return _interval(values, sums, sizes, seed, least=0.0)


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """The exact two-sided p of pairs that differ this often in one direction and that often in the other."""
    n = only_first + only_second
    if n == 0:
        return 1.0
    ways, tail = 1, 1  # of drawing k of n, and of drawing at most k
    for k in range(min(only_first, only_second)):
        ways = ways * (n - k) // (k + 1)
        tail += ways
    return min(1.0, float(Fraction(2 * tail, 2**n)))


def paired_difference(
    first: Sequence[float], second: Sequence[float], *, seed: int, clusters: Sequence[object] | None = None
) -> Comparison:
    """Compare two lists of scores of the same rows; rows of one cluster stay together."""
    import numpy as np

    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"{len(first)} and {len(second)} scores: two lists of the same rows, at least 2, are needed")
    gaps = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    sums, sizes = _clustered(gaps, clusters)
    if len(sums) == len(gaps) and _binary(first) and _binary(second):
        p = mcnemar_exact(int((gaps > 0).sum()), int((gaps < 0).sum()))
    else:
        p = _sign_flip(sums, seed)
    interval = _interval(gaps, sums, sizes, seed, least=-1.0)
    return Comparison(float(gaps.mean()), interval, p, len(gaps), _detectable(sums, sizes))


def holm(ps: Sequence[float]) -> list[float]:
    """The p-values, corrected for having made several comparisons."""
    adjusted, worst = [0.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        worst = max(worst, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = worst
    return adjusted


def verdict(comparison: Comparison, p: float, *, lower_is_better: bool = False) -> str:
    """better, worse or inconclusive: the interval must leave out 0, and the corrected p be small."""
    low, high = comparison.interval
    if p >= LEVEL or low <= 0 <= high:
        return "inconclusive"
    return "better" if (low > 0) != lower_is_better else "worse"


def underpowered(comparison: Comparison) -> bool:
    """Whether the rows are too few to see even a large difference."""
    return comparison.detectable > COARSE


def rows_needed(difference: float) -> int:
    """The rows that show a difference of yes and no four times in five, if DISCORDANT of them answer differently."""
    return math.ceil((_Z + _Z_POWER) ** 2 * max(DISCORDANT, difference) / difference**2)


def detectable_difference(rows: int) -> float:
    """The smallest difference that so many rows show four times in five; 1 when there is none."""
    spread = (_Z + _Z_POWER) ** 2 / rows
    # no difference is larger than the share of rows that answer differently
    return min(1.0, max(spread, math.sqrt(spread * DISCORDANT)))


def foretell(rows: int, groups: int) -> Reach:
    """What so many rows, in so many groups, will be able to show of two models."""
    return Reach(rows, groups, detectable_difference(rows), detectable_difference(groups), WANTED, rows_needed(WANTED))


def _binary(scores: Sequence[float]) -> bool:
    return all(score in (0.0, 1.0) for score in scores)


def _clustered(gaps: Floats, clusters: Sequence[object] | None) -> tuple[Floats, Floats]:
    """The sum and the size of each cluster; without clusters every row is its own."""
    import numpy as np

    if clusters is None:
        return gaps, np.ones_like(gaps)
    if len(clusters) != len(gaps):
        raise ValueError(f"{len(clusters)} clusters named for {len(gaps)} rows")
    numbers = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    owner = np.array([numbers[name] for name in clusters])
    return np.bincount(owner, weights=gaps).astype(np.float64), np.bincount(owner).astype(np.float64)


def _interval(values: Floats, sums: Floats, sizes: Floats, seed: int, *, least: float) -> Interval:
    """The interval of the mean of values between `least` and 1 that come in clusters."""
    import numpy as np

    means = sums / sizes
    if bool((abs(means - means[0]) <= 1e-12).all()):
        return _uniform(float(means[0]), len(means), least)
    if len(sums) >= FEW:
        return _bootstrap(sums, sizes, seed)
    # by chance few means lie close together: no narrower, then, than if every row stood for itself
    limits = _student(sums, sizes) + _student(values, np.ones_like(values))
    return max(min(limits), min(least, float(values.min()))), min(max(limits), max(1.0, float(values.max())))


def _student(sums: Floats, sizes: Floats) -> Interval:
    """Student's interval of the mean of clusters."""
    mean, n = float(sums.sum() / sizes.sum()), len(sums)
    variance = float(((sums - mean * sizes) ** 2).sum()) / (n - 1) / float(sizes.mean()) ** 2
    margin = student_quantile(n - 1) * math.sqrt(variance / n)
    return mean - margin, mean + margin


def _bootstrap(sums: Floats, sizes: Floats, seed: int) -> Interval:
    """The percentile interval of the mean, from resampled clusters, at levels that make up for there being few.

    Resampled means of n clusters vary less than means of n new ones: by the factor of the variance, (n - 1) / n, and
    because the variance is itself a guess, which Student's distribution makes up for.
    """
    import numpy as np

    rng, n = np.random.default_rng(seed), len(sums)
    means = []
    for count in _chunks(n):
        drawn = rng.integers(0, n, size=(count, n))
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    tail = math.erfc(student_quantile(n - 1) * math.sqrt(n / (n - 1) / 2)) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


def student_quantile(freedom: int) -> float:
    """The 0.975 quantile of Student's distribution."""
    low, high = _Z, 13.0  # of infinitely many degrees of freedom, and over that of one
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_within(middle, freedom) < 1 - LEVEL else (low, middle)
    return low


def _student_within(bound: float, freedom: int) -> float:
    """The chance to stay within ± bound: the finite series for whole degrees of freedom."""
    angle = math.atan(bound / math.sqrt(freedom))
    odd, square = freedom % 2, math.cos(angle) ** 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0 if freedom == 1 else term
    for k in range(2 + odd, freedom - 1, 2):
        term *= (k - 1) / k * square
        total += term
    chance = math.sin(angle) * total
    return 2 / math.pi * (angle + chance) if odd else chance


def _uniform(value: float, n: int, least: float) -> Interval:
    """The interval when all values are the same: resampling sees no spread, yet unseen ones may differ.

    At most Wilson's share of them does, and they are no less than `least` and no more than 1.
    """
    other = wilson(0, n)[1]
    return value - other * (value - min(least, value)), value + other * (max(1.0, value) - value)


def _sign_flip(sums: Floats, seed: int) -> float:
    """The two-sided p of the permutation test that swaps the two scores of a row, or of a whole cluster."""
    import numpy as np

    moved = sums[sums != 0]
    if len(moved) == 0:
        return 1.0
    # rounding must not part sums that are equal
    bar = abs(float(moved.sum())) * (1 - 1e-9)
    if len(moved) <= math.log2(RESAMPLES):
        patterns: Any = np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved)) & 1
        return float((np.abs((1 - 2 * patterns) @ moved) >= bar).mean())
    rng, beyond = np.random.default_rng(seed), 0
    for count in _chunks(len(moved)):
        signs = rng.integers(0, 2, size=(count, len(moved)), dtype=np.int8) * 2 - 1
        beyond += int((np.abs(signs @ moved) >= bar).sum())
    return (beyond + 1) / (RESAMPLES + 1)


def _chunks(width: int) -> Iterator[int]:
    """The resamples, in portions that fit into memory."""
    portion, left = max(1, _CELLS // width), RESAMPLES
    while left > 0:
        yield min(portion, left)
        left -= portion


def _detectable(sums: Floats, sizes: Floats) -> float:
    """The smallest difference that is seen four times in five, of as many clusters like these.

    What differs here is a guess at what differs among new ones: the upper end of its interval counts. And no
    difference is seen that is larger than all that differ make up.
    """
    gaps = sums / sizes.mean()
    n, differing = len(gaps), gaps[gaps != 0]
    size = float((differing**2).mean()) if len(differing) else 1.0
    spread = (_Z + _Z_POWER) ** 2 / n
    return math.sqrt(size) * max(spread, math.sqrt(spread * wilson(len(differing), n)[1]))
