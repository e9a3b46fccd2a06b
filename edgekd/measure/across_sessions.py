"""What changed between two sessions: intervals of differences whose two sides were sampled apart.

Times of two sessions share no processes, so they are never paired, and the host may be in another state: its
clock, its neighbors, its temperature. What may be compared is each session's own paired ratio to an artifact
that both measured: what slows both down alike cancels. Let x_1..x_P be the logarithms of the earlier
session's process-level ratios and y_1..y_Q those of the later one:

    x_i = a + u + e_i,    y_j = b + v + f_j,    u, v ~ N(0, tau^2) between sessions, e_i, f_j within.

The change b - a is estimated by d = mean(y) - mean(x). The processes' part of its error has the variance
w = s_x^2 / P + s_y^2 / Q and, by Welch and Satterthwaite, a t-distribution with

    nu = w^2 / ((s_x^2 / P)^2 / (P - 1) + (s_y^2 / Q)^2 / (Q - 1))

degrees of freedom, rounded down. The sessions' part, u - v, has the variance 2 tau^2, which two sessions
cannot tell: `session_sd()` states it. The interval joins the two limits as squares (as MOVER does),

    d +- sqrt(t(nu)^2 w + z^2 2 tau^2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edgekd.core.measurement import Interval
from edgekd.measure import statistics
from edgekd.measure.distributions import normal_quantile, student_t_quantile

SESSION_SD = 0.025
SESSION_SD_SHARE = 0.04


@dataclass(frozen=True)
class LogMean:
    """The mean of process-level logarithms, its variance and its degrees of freedom."""

    mean: float
    variance: float
    degrees: int

    @classmethod
    def of(cls, values: Sequence[float]) -> LogMean:
        """From P >= 2 positive process-level values; raises `ValueError` for anything else."""
        if len(values) < 2 or min(values) <= 0:
            raise ValueError("needs at least two positive values")
        logs = [math.log(value) for value in values]
        return cls(math.fsum(logs) / len(logs), statistics.sd(logs) ** 2 / len(logs), len(logs) - 1)


def session_sd(log_ratio: float) -> float:
    """Between-session standard deviation (tau) of the logarithm of a paired ratio.

    2.5 %, or 4 % of the ratio's distance from 1 on the logarithm if that is more: two graphs of unlike speed
    depend unlike on the host's state. Measured on a shared host under load (docs/history.md); a quiet device
    repeats better, so that intervals there are wider than they need be.
    """
    return max(SESSION_SD, SESSION_SD_SHARE * abs(log_ratio))


def change_of_ratio(
    before: LogMean, after: LogMean, *, tau: float | None = None, level: float = statistics.LEVEL
) -> tuple[float, Interval]:
    """after / before and its interval (Welch 1947, Biometrika 34:28, widened by the sessions' part).

    tau: between-session standard deviation; default: `session_sd()` of the ratio farther from 1.
    """
    if tau is None:
        tau = session_sd(max(abs(before.mean), abs(after.mean)))
    difference, within = after.mean - before.mean, before.variance + after.variance
    sampled = student_t_quantile((1 + level) / 2, _degrees(before, after)) * math.sqrt(within)
    half = math.hypot(sampled, normal_quantile((1 + level) / 2) * math.sqrt(2) * tau)
    low, high = math.exp(difference - half), math.exp(difference + half)
    return math.exp(difference), Interval(low=low, high=high, level=level, method="welch-t-log-sessions")


def _degrees(before: LogMean, after: LogMean) -> int:
    """Satterthwaite's, rounded down; between the smaller of the two and their sum."""
    within = before.variance + after.variance
    if within == 0:
        return min(before.degrees, after.degrees)
    shares = [(one.variance / within) ** 2 / one.degrees for one in (before, after)]
    return max(1, math.floor(1 / sum(shares) + 1e-9))


def independent_difference(
    before: float, before_interval: Interval, after: float, after_interval: Interval
) -> Interval:
    """Interval of after - before from the two intervals (MOVER: Zou and Donner 2008, Statist. Med. 27:1693).

    With Wilson's intervals of two proportions this is Newcombe's hybrid score interval (1998, Statist. Med.
    17:873, method 10). Both must be of one level. For two results on the same images, which rise and fall
    together, it is too wide and so errs on the careful side.
    """
    if before_interval.level != after_interval.level:
        raise ValueError("the intervals are of different levels")
    difference = after - before
    low = difference - math.hypot(after - after_interval.low, before_interval.high - before)
    high = difference + math.hypot(after_interval.high - after, before - before_interval.low)
    methods = dict.fromkeys((before_interval.method, after_interval.method))
    return Interval(low=low, high=high, level=after_interval.level, method=f"mover-{'-'.join(methods)}")
