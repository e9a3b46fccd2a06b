"""Estimates with intervals: proportions, paired differences, recalls, process-level times, percentiles.

Legend: N images, C classes, P processes. Every interval is two-sided; `level` is its coverage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from edgekd.core.measurement import Interval
from edgekd.measure.distributions import binomial_cdf, bisect, normal_quantile, student_t_quantile

LEVEL = 0.95


def wilson(successes: int, n: int, *, level: float = LEVEL) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927, JASA 22:209). Raises `ValueError` for n = 0."""
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"not a proportion: {successes} of {n}")
    z = normal_quantile((1 + level) / 2)
    share = successes / n
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, center - half)
    high = 1.0 if successes == n else min(1.0, center + half)
    return Interval(low=low, high=high, level=level, method="wilson")


def paired_difference(lost: int, won: int, n: int, *, level: float = LEVEL) -> Interval:
    """Tango's score interval of (lost - won) / n (Tango 1998, Statistics in Medicine 17:891).

    Of n images seen by both, `lost` were right only before and `won` right only after; the difference is
    therefore an accuracy drop. With no discordant image the interval is +-z^2 / (n + z^2), not a point.
    Counted exactly over the multinomial (tests), the bound that lets a drop pass misses in at most 2.5 %;
    the other one in up to 5 % when `won` is nearly impossible.
    """
    if min(lost, won) < 0 or lost + won > n or n < 1:
        raise ValueError(f"not a paired table: lost {lost}, won {won} of {n}")
    z = normal_quantile((1 + level) / 2)
    estimate = (lost - won) / n
    low = -1.0 if won == n else bisect(lambda d: _tango(lost, won, n, d) - z, -1.0, estimate)
    high = 1.0 if lost == n else bisect(lambda d: _tango(lost, won, n, d) + z, estimate, 1.0)
    return Interval(low=low, high=high, level=level, method="tango")


def _tango(lost: int, won: int, n: int, difference: float) -> float:
    """The score statistic for H0: P(lost) - P(won) = difference; falls monotonically in `difference`."""
    a = 2 * n
    b = -lost - won + (2 * n - lost + won) * difference
    c = -won * difference * (1 - difference)
    p_won = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = n * (2 * p_won + difference * (1 - difference))
    excess = lost - won - n * difference
    if variance <= 1e-12:
        return 0.0 if abs(excess) <= 1e-9 else math.copysign(math.inf, excess)
    return excess / math.sqrt(variance)


def mcnemar(lost: int, won: int) -> float:
    """Two-sided exact p-value that losses and wins are equally likely (McNemar 1947, binomial form)."""
    discordant = lost + won
    if discordant == 0:
        return 1.0
    return min(1.0, 2 * binomial_cdf(min(lost, won), discordant, 0.5))


def macro_recall(correct: Sequence[int], total: Sequence[int], *, level: float = LEVEL) -> Interval:
    """Interval of the mean recall over the C classes; every `total` must be positive.

    Each class's Wilson limits are combined as in MOVER (Zou and Donner 2008, Statistics in Medicine
    27:1693): the squared distances estimate-to-limit add up, so perfect recalls still leave a width.
    """
    recalls = [k / n for k, n in zip(correct, total, strict=True)]
    limits = [wilson(k, n, level=level) for k, n in zip(correct, total, strict=True)]
    mean = math.fsum(recalls) / len(recalls)
    below = math.hypot(*(r - limit.low for r, limit in zip(recalls, limits, strict=True)))
    above = math.hypot(*(limit.high - r for r, limit in zip(recalls, limits, strict=True)))
    low, high = mean - below / len(recalls), mean + above / len(recalls)
    return Interval(low=max(0.0, low), high=min(1.0, high), level=level, method="mover-wilson")


@lru_cache(maxsize=4096)
def clopper_pearson(successes: int, n: int, *, level: float = LEVEL) -> Interval:
    """The exact interval of a proportion (Clopper and Pearson 1934, Biometrika 26:404)."""
    alpha = (1 - level) / 2
    low, high = 0.0, 1.0
    if successes > 0:
        low = bisect(lambda p: 1 - binomial_cdf(successes - 1, n, p) - alpha, 0.0, 1.0)
    if successes < n:
        high = bisect(lambda p: alpha - binomial_cdf(successes, n, p), 0.0, 1.0)
    return Interval(low=low, high=high, level=level, method="clopper-pearson")


def worst_class_recall(correct: Sequence[int], total: Sequence[int], *, level: float = LEVEL) -> Interval:
    """Interval of the smallest recall over C classes, whichever class that is; every `total` positive.

    Low: the least of all classes' exact lower limits. It exceeds the truth only if the truly worst class's
    own limit does, so it needs no correction however many classes compete. High: the least of the upper
    limits, which errs if any class's does: these are Bonferroni-corrected for C. Either end errs in at most
    (1 - level) / 2; Wilson's limits would not do (upper ones near 1 err three times too often).
    """
    low = min(clopper_pearson(k, n, level=level).low for k, n in zip(correct, total, strict=True))
    joint = 1 - (1 - level) / len(total)
    high = min(clopper_pearson(k, n, level=joint).high for k, n in zip(correct, total, strict=True))
    return Interval(low=low, high=max(low, high), level=level, method="clopper-pearson-min-bonferroni")


def mean_of_logs(values: Sequence[float], *, level: float = LEVEL) -> tuple[float, Interval | None]:
    """Geometric mean of P positive process-level values and its Student-t interval on logarithms.

    One process gives no interval: the spread between processes is unknown.
    """
    logs = [math.log(value) for value in values]
    mean = math.fsum(logs) / len(logs)
    if len(logs) < 2:
        return math.exp(mean), None
    half = student_t_quantile((1 + level) / 2, len(logs) - 1) * sd(logs) / math.sqrt(len(logs))
    interval = Interval(
        low=math.exp(mean - half), high=math.exp(mean + half), level=level, method="student-t-log-processes"
    )
    return math.exp(mean), interval


def sd(values: Sequence[float]) -> float:
    """Sample standard deviation (n - 1); 0 for fewer than two values."""
    if len(values) < 2:
        return 0.0
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


@dataclass(frozen=True)
class EarlyStopping:
    """MLPerf's percentile estimate: `value` bounds the percentile at 99 % confidence; None below `needed`."""

    value: float | None
    n: int
    dropped: int
    needed: int


def early_stopping_percentile(
    samples: Sequence[float], fraction: float, *, confidence: float = 0.99
) -> EarlyStopping:
    """MLPerf Inference's early-stopping estimate of a latency percentile (tolerance 0).

    With q samples, t is the largest count with P[Binomial(q, 1 - fraction) <= t] <= 1 - confidence; the
    t - 1 slowest are dropped and the maximum of the rest is reported. Needs t >= 1: 64 samples for p90, 662
    for p99.
    """
    needed = early_stopping_minimum(fraction, 1, confidence=confidence)
    t = _largest_t(len(samples), 1 - fraction, 1 - confidence)
    if t < 1:
        return EarlyStopping(value=None, n=len(samples), dropped=0, needed=needed)
    return EarlyStopping(
        value=sorted(samples)[len(samples) - t], n=len(samples), dropped=t - 1, needed=needed
    )


def early_stopping_minimum(fraction: float, t: int, *, confidence: float = 0.99) -> int:
    """The fewest samples from which `t` may be used (p90: 64 for t = 1, 127 for t = 5)."""
    low, high = t, t
    while binomial_cdf(t, high, 1 - fraction) > 1 - confidence:
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        if binomial_cdf(t, middle, 1 - fraction) <= 1 - confidence:
            high = middle
        else:
            low = middle + 1
    return low


def _largest_t(n: int, tail: float, alpha: float) -> int:
    """Largest t with P[Binomial(n, tail) <= t] <= alpha, or -1; found by bisection over the monotone CDF."""
    low, high = -1, n
    while high - low > 1:
        middle = (low + high) // 2
        if binomial_cdf(middle, n, tail) <= alpha:
            low = middle
        else:
            high = middle
    return low
