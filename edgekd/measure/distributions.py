"""The few probability distributions that measuring needs, so that judging numbers needs no SciPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from statistics import NormalDist

_STANDARD_NORMAL = NormalDist()
_TINY = 1e-300
_MAX_STEPS = 20_000
"""The fraction needs about the square root of its larger parameter."""


def normal_quantile(probability: float) -> float:
    """The z with P[Z <= z] = probability."""
    return _STANDARD_NORMAL.inv_cdf(probability)


@lru_cache(maxsize=1024)
def student_t_quantile(probability: float, degrees: int) -> float:
    """The t with P[T <= t] = probability for Student's t with `degrees` >= 1 degrees of freedom."""
    if not 0 < probability < 1 or degrees < 1:
        raise ValueError("needs 0 < probability < 1 and at least one degree of freedom")
    if probability < 0.5:
        return -student_t_quantile(1 - probability, degrees)
    high = 1.0
    while student_t_cdf(high, degrees) < probability:
        high *= 2
    return bisect(lambda t: student_t_cdf(t, degrees) - probability, 0.0, high)


def student_t_cdf(t: float, degrees: int) -> float:
    """P[T <= t], through the regularized incomplete beta function."""
    tail = 0.5 * incomplete_beta(degrees / 2, 0.5, degrees / (degrees + t * t))
    return 1 - tail if t >= 0 else tail


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Regularized I_x(a, b) by its continued fraction (DLMF 8.17.22), x in [0, 1]."""
    if x <= 0 or x >= 1:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(b, a, 1 - x)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log_front) / (a * _beta_fraction(a, b, x))


def _beta_fraction(a: float, b: float, x: float) -> float:
    """The denominator's continued fraction, evaluated by the modified Lentz method."""
    value, c, d = 1.0, 1.0, 0.0
    for step in range(1, _MAX_STEPS):
        m, odd = divmod(step, 2)
        if odd:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / _away_from_zero(1 + term * d)
        c = _away_from_zero(1 + term / c)
        value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return value


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def binomial_cdf(k: int, n: int, p: float) -> float:
    """P[Binomial(n, p) <= k], as the incomplete beta function (DLMF 8.17.5), so that n may be large."""
    if k < 0:
        return 0.0
    return 1.0 if k >= n else incomplete_beta(n - k, k + 1, 1 - p)


def bisect(function: Callable[[float], float], low: float, high: float) -> float:
    """The root of a monotone `function` in [low, high], to the last bits of a float."""
    rising = function(high) >= function(low)
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if (function(middle) < 0) == rising:
            low = middle
        else:
            high = middle
    return (low + high) / 2
