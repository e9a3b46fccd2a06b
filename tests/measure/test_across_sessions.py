"""Changes between sessions against NumPy derivations of their own, published numbers and simulations.

Legend: P processes of the earlier session, Q of the later one.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from edgekd.core.measurement import Interval
from edgekd.measure.across_sessions import (
    LogMean,
    change_of_ratio,
    independent_difference,
    session_sd,
)
from edgekd.measure.statistics import wilson

Array = npt.NDArray[np.float64]

BEFORE = np.array([1.093, 1.112, 1.071, 1.101, 1.087])
AFTER = np.array([1.201, 1.183, 1.222, 1.195, 1.171, 1.210, 1.188, 1.204])


def t_limit(degrees: float, level: float = 0.95) -> float:
    """Of Student's t by summing its density over a fine grid; infinite degrees give the normal limit."""
    x = np.linspace(0, 60, 120_001)
    if math.isinf(degrees):
        density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    else:
        constant = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)
        density = np.exp(constant - (degrees + 1) / 2 * np.log1p(x**2 / degrees))
        density /= math.sqrt(degrees * math.pi)
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(x))])
    return float(np.interp(level / 2, mass, x))


def derived(before: Array, after: Array, tau: float) -> tuple[float, float, float]:
    """The change with its ends, straight from the model: what processes and what sessions contribute."""
    x, y = np.log(before), np.log(after)
    part_x, part_y = np.var(x, ddof=1) / len(x), np.var(y, ddof=1) / len(y)
    degrees = (part_x + part_y) ** 2 / (part_x**2 / (len(x) - 1) + part_y**2 / (len(y) - 1))
    sampled = t_limit(math.floor(degrees)) ** 2 * (part_x + part_y)
    between = t_limit(math.inf) ** 2 * 2 * tau**2
    change, half = y.mean() - x.mean(), math.sqrt(sampled + between)
    return math.exp(change), math.exp(change - half), math.exp(change + half)


@pytest.mark.parametrize("tau", [0.0, 0.01, 0.05])
def test_a_change_of_a_ratio_is_welchs_interval_widened_by_the_sessions_part(tau: float) -> None:
    value, interval = change_of_ratio(LogMean.of(BEFORE.tolist()), LogMean.of(AFTER.tolist()), tau=tau)
    assert (value, interval.low, interval.high) == pytest.approx(derived(BEFORE, AFTER, tau), rel=1e-5)


def test_the_stated_part_of_the_sessions_is_that_of_the_ratio_farther_from_one() -> None:
    before, after = LogMean.of(BEFORE.tolist()), LogMean.of((3 * AFTER).tolist())
    stated = session_sd(after.mean)
    assert stated > session_sd(before.mean) == session_sd(0.0)
    assert change_of_ratio(before, after) == change_of_ratio(before, after, tau=stated)


def test_looked_at_from_the_other_side_the_change_is_the_inverse() -> None:
    before, after = LogMean.of(BEFORE.tolist()), LogMean.of(AFTER.tolist())
    value, interval = change_of_ratio(before, after)
    turned, other = change_of_ratio(after, before)
    assert turned == pytest.approx(1 / value)
    assert (other.low, other.high) == pytest.approx((1 / interval.high, 1 / interval.low))


def test_processes_that_all_agree_leave_the_sessions_part_alone() -> None:
    same = LogMean.of([1.25] * 5)
    value, interval = change_of_ratio(same, same, tau=0.02)
    assert value == 1.0
    assert math.log(interval.high) == pytest.approx(1.959964 * math.sqrt(2) * 0.02, rel=1e-6)


@pytest.mark.parametrize("values", [[1.0], [1.0, 0.0], [1.0, -2.0]])
def test_one_process_or_a_ratio_that_is_none_gives_no_mean(values: list[float]) -> None:
    with pytest.raises(ValueError, match="at least two positive"):
        LogMean.of(values)


# --- simulations --------------------------------------------------------------------------------------------


def covered(*, spreads: tuple[float, float], counts: tuple[int, int], tau: float, stated: float) -> float:
    """How often the interval holds a true change of 1.03 between two sessions of normal logarithms."""
    random, hits, rounds = np.random.default_rng(7), 0, 1000
    for _ in range(rounds):
        before, after = (
            LogMean.of(np.exp(random.normal(true + random.normal(0, tau), spread, count)).tolist())
            for true, spread, count in zip((0.1, 0.1 + math.log(1.03)), spreads, counts, strict=True)
        )
        _, interval = change_of_ratio(before, after, tau=stated)
        hits += interval.low <= 1.03 <= interval.high
    return hits / rounds


@pytest.mark.parametrize(
    ("spreads", "counts"), [((0.005, 0.005), (5, 5)), ((0.005, 0.02), (5, 10)), ((0.02, 0.005), (5, 20))]
)
def test_welchs_interval_covers_what_processes_differ_by(
    spreads: tuple[float, float], counts: tuple[int, int]
) -> None:
    assert 0.935 <= covered(spreads=spreads, counts=counts, tau=0.0, stated=0.0) <= 0.975


@pytest.mark.parametrize("spread", [0.002, 0.02, 0.05])
def test_the_widened_interval_covers_what_sessions_differ_by_as_well(spread: float) -> None:
    spreads, counts = (spread, spread), (5, 5)
    assert covered(spreads=spreads, counts=counts, tau=0.025, stated=0.025) >= 0.935


def test_processes_alone_say_little_about_what_sessions_differ_by() -> None:
    """Why the interval is widened: without that it is nearly always wrong where processes agree well."""
    assert covered(spreads=(0.002, 0.002), counts=(5, 5), tau=0.025, stated=0.0) < 0.25


def test_a_host_in_another_state_makes_absolute_times_differ_and_ratios_not() -> None:
    """Both graphs run 20 % slower in every second session: nothing about the artifact has changed."""
    random, absolute, by_ratio, rounds = np.random.default_rng(3), 0, 0, 400
    for number in range(rounds):
        state = 1.2 if number % 2 else 1 / 1.2
        old, old_reference, new, new_reference = np.exp(random.normal(0, 0.004, (4, 5)))
        times = LogMean.of(old.tolist()), LogMean.of((state * new).tolist())
        ratios = LogMean.of((old / old_reference).tolist()), LogMean.of((new / new_reference).tolist())
        absolute += not _holds_one(change_of_ratio(*times, tau=0.0)[1])
        by_ratio += not _holds_one(change_of_ratio(*ratios)[1])
    assert absolute == rounds
    assert by_ratio <= 0.05 * rounds


def _holds_one(interval: Interval) -> bool:
    return interval.low <= 1 <= interval.high


# --- two samples --------------------------------------------------------------------------------------------


def test_two_accuracies_give_newcombes_published_interval() -> None:
    """56 of 70 against 48 of 80: 0.2 (0.0524 to 0.3339), Newcombe 1998, Table II, method 10, contrast (a)."""
    found = independent_difference(48 / 80, wilson(48, 80), 56 / 70, wilson(56, 70))
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert found.method == "mover-wilson"


def test_two_samples_without_spread_have_a_difference_without_width() -> None:
    exact = Interval(low=0.5, high=0.5, method="x"), Interval(low=0.7, high=0.7, method="x")
    found = independent_difference(0.5, exact[0], 0.7, exact[1])
    assert found.low == found.high == pytest.approx(0.2)


def test_intervals_of_two_levels_are_not_combined() -> None:
    ends = Interval(low=0.4, high=0.6, method="x"), Interval(low=0.4, high=0.6, level=0.99, method="x")
    with pytest.raises(ValueError, match="levels"):
        independent_difference(0.5, ends[0], 0.5, ends[1])


def test_newcombes_interval_covers_the_difference_of_two_accuracies() -> None:
    random = np.random.default_rng(5)
    counts = random.binomial(500, [0.90, 0.87], (1000, 2)).tolist()
    intervals = [independent_difference(k / 500, wilson(k, 500), m / 500, wilson(m, 500)) for k, m in counts]
    assert 0.935 <= np.mean([i.low <= -0.03 <= i.high for i in intervals]) <= 0.97
