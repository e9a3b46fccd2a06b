"""Faster, slower or cannot tell: on ratios made to known rules, and in simulations with fixed seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgekd.core.measurement import Interval
from edgekd.measure import latency, statistics
from edgekd.measure.compare import Comparison, Design, Expectation, compare, meets
from edgekd.measure.protocol import PROTOCOLS

RAPID = PROTOCOLS["rapid"]
ONE_LOOK = Design(5, 5)
UNTIL_20 = Design(5, 20)
STATE: dict[str, Any] = {"before": {}, "after": {}, "clocks_khz": []}
T_975 = {4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 11: 2.201, 12: 2.179, 13: 2.160}
"""Student's t for 95 % intervals by degrees of freedom, from a printed table."""


def processes(ratios: Sequence[float]) -> list[dict[str, Any]]:
    """Processes in each of which `b` is faster than `a` by the given ratio, without any noise within."""
    return [
        {
            "graphs": {"a": {"blocks_ns": [[1e6 * ratio] * 10] * 3}, "b": {"blocks_ns": [[1e6] * 10] * 3}},
            "state": STATE,
            "span_s": 1.0,
        }
        for ratio in ratios
    ]


def compared(ratios: Sequence[float], design: Design = ONE_LOOK) -> Comparison:
    return compare(processes(ratios), "b", "a", RAPID, design)


def around(middle: float, spread: float, count: int = 5) -> list[float]:
    """Ratios whose logarithms have exactly this mean and this sample standard deviation."""
    steps = np.linspace(-1, 1, count)
    steps *= spread / steps.std(ddof=1)
    return [float(middle * math.exp(step)) for step in steps]


def test_the_answer_is_faster_slower_or_cannot_tell() -> None:
    assert compared(around(1.10, 0.01)).answer == "faster"
    assert compared(around(0.90, 0.01)).answer == "slower"
    assert compared(around(1.01, 0.02)).answer == "cannot tell"


def test_one_and_a_half_per_cent_at_the_spread_of_a_loaded_machine_are_told() -> None:
    found = compared(around(1.015, 0.004))
    assert found.answer == "faster"
    half = T_975[4] * 0.004 / math.sqrt(5)
    assert found.interval is not None
    assert found.interval.low == pytest.approx(1.015 * math.exp(-half), rel=1e-5)
    assert found.interval.high == pytest.approx(1.015 * math.exp(half), rel=1e-5)


@pytest.mark.parametrize("ratio", [1.0099, 1 / 1.0099])
def test_less_than_one_per_cent_is_never_claimed(ratio: float) -> None:
    found = compared(around(ratio, 1e-5))
    assert found.answer == "cannot tell"
    assert found.settled, "no number of processes makes it more"
    assert found.why == ("any difference is below 1 %",)


def test_alike_is_settled_and_uncertain_is_not() -> None:
    assert compared(around(1.0, 0.002)).alike
    assert not compared(around(1.0, 0.02)).settled


def test_a_ratio_that_may_not_be_judged_is_not_claimed() -> None:
    wide = compared(around(2.0, 0.3))
    assert wide.answer == "cannot tell"
    assert "noise" in wide.why[0]
    few = compare(processes(around(2.0, 0.001, 4)), "b", "a", RAPID, Design(4, 4))
    assert few.answer == "cannot tell"
    assert "judging needs 5" in few.why[0]


def test_fewer_processes_than_judging_needs_are_answered_with_how_many_it_needs() -> None:
    assert compare(processes(around(2.0, 0.001, 4)), "b", "a", RAPID, Design(4, 4)).needed == 5


@pytest.mark.parametrize(("ratio", "spread"), [(1.02, 0.02), (1.03, 0.03), (0.98, 0.02)])
def test_the_number_that_would_decide_is_the_least_whose_interval_is_off_one(
    ratio: float, spread: float
) -> None:
    needed = compared(around(ratio, spread)).needed
    distance = abs(math.log(ratio))
    enough = [n for n in (df + 1 for df in T_975) if T_975[n - 1] * spread / math.sqrt(n) < distance]
    assert needed == min(enough)


def test_a_smaller_difference_must_get_off_both_ends_of_the_one_per_cent() -> None:
    """At 1.004 and a spread of 1 %, +1 % is 0.6 % away: t(13) 0.01 / sqrt(14) = 0.58 %, t(12): 0.60 %."""
    assert compared(around(1.004, 0.01)).needed == 14


def test_no_practical_number_is_none() -> None:
    assert compared(around(1.0100, 0.3)).needed is None


def test_the_ratios_of_the_percentiles_stand_beside() -> None:
    facts = compared(around(1.10, 0.01)).facts()
    assert facts["p50_ratio"]["value"] == pytest.approx(1.10)
    assert facts["p90_ratio"]["low"] < 1.10 < facts["p90_ratio"]["high"]
    assert (facts["answer"], facts["processes"]) == ("faster", 5)


def test_every_look_and_every_pair_is_paid_for() -> None:
    assert ONE_LOOK.level == pytest.approx(0.95)
    assert UNTIL_20.looks == (5, 10, 15, 20)
    assert UNTIL_20.level == pytest.approx(1 - 0.05 / 4)
    assert Design(5, 20, pairs=3).level == pytest.approx(1 - 0.05 / 12)


def test_many_pairs_make_an_interval_wider() -> None:
    one, many = (compared(around(1.0, 0.01), Design(5, 5, pairs)).interval for pairs in (1, 10))
    assert one is not None and many is not None
    assert many.low < one.low < one.high < many.high


@pytest.mark.parametrize("bad", [(0, 5, 1), (5, 4, 1), (5, 5, 0)])
def test_an_impossible_design_is_refused(bad: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="no design"):
        Design(*bad)


@pytest.mark.parametrize(
    ("ratio", "spread", "expected", "outcome"),
    [
        (1.05, 0.005, "faster", "pass"),
        (0.95, 0.005, "faster", "fail"),
        (1.0, 0.002, "faster", "fail"),
        (1.01, 0.02, "faster", "inconclusive"),
        (1.05, 0.005, "not-slower", "pass"),
        (1.0, 0.002, "not-slower", "pass"),
        (1.02, 0.02, "not-slower", "pass"),
        (0.95, 0.005, "not-slower", "fail"),
        (0.995, 0.01, "not-slower", "inconclusive"),
        (2.0, 0.4, "not-slower", "inconclusive"),
    ],
)
def test_what_is_expected_passes_fails_or_stays_open(
    ratio: float, spread: float, expected: Expectation, outcome: str
) -> None:
    assert meets(compared(around(ratio, spread)), expected) == outcome


# --- simulations: how often are claims wrong? ---------------------------------------------------------------

Draw = Callable[[np.random.Generator, tuple[int, int]], npt.NDArray[np.float64]]
NOISES: dict[str, Draw] = {
    "normal": lambda g, shape: g.normal(size=shape),
    "heavy tails": lambda g, shape: g.standard_t(3, size=shape) / math.sqrt(3),
    "two states": lambda g, shape: np.where(
        g.random(shape) < 0.2, g.choice([-2.0, 2.0], shape), 0.3 * g.normal(size=shape)
    ),
}
TRIALS = 600


def looked_at(logs: npt.NDArray[np.float64], design: Design) -> tuple[float, Interval, str | None]:
    """A session that stops at the first look which claims something or leaves out every difference."""
    for look in design.looks:
        value, interval = statistics.mean_of_logs(np.exp(logs[:look]).tolist(), level=design.level)
        assert interval is not None
        claimed = latency.claim(value, interval)
        if claimed or (interval.low > 0.99 and interval.high < 1.01):
            break
    assert interval is not None
    return value, interval, claimed


@pytest.mark.parametrize("spread", [0.004, 0.05])
@pytest.mark.parametrize("noise", NOISES)
def test_looking_until_decided_claims_a_difference_that_is_none_in_less_than_five_per_cent(
    noise: str, spread: float
) -> None:
    logs = spread * NOISES[noise](np.random.default_rng(17), (TRIALS, 20))
    claims = [looked_at(row, UNTIL_20)[2] for row in logs]
    allowed = 0.05 * TRIALS + 3 * math.sqrt(TRIALS * 0.05 * 0.95)
    assert sum(claim is not None for claim in claims) <= allowed
    if spread <= 0.004:
        assert not any(claims), "1 % is far outside of such noise"


def test_the_last_interval_holds_the_truth_in_ninety_five_per_cent_although_the_looks_chose_it() -> None:
    """The truth is a difference of 1 %, where stopping at a claim favors intervals that are too high."""
    logs = math.log(1.01) + 0.02 * NOISES["normal"](np.random.default_rng(3), (TRIALS, 20))
    intervals = [looked_at(row, UNTIL_20)[1] for row in logs]
    missed = sum(not one.low <= 1.01 <= one.high for one in intervals)
    assert missed <= 0.05 * TRIALS + 3 * math.sqrt(TRIALS * 0.05 * 0.95)


def test_the_same_looks_with_the_usual_interval_would_claim_too_much() -> None:
    """The rule is needed: without it every tenth session of equals ends with a claim."""
    logs = 0.1 * NOISES["normal"](np.random.default_rng(17), (TRIALS, 20))
    naive = 0
    for row in logs:
        found = [statistics.mean_of_logs(np.exp(row[:look]).tolist()) for look in UNTIL_20.looks]
        naive += any(latency.claim(value, interval) is not None for value, interval in found if interval)
    assert naive > 0.08 * TRIALS


def test_growing_finds_what_one_look_does_not() -> None:
    """A true 2 % at a spread of 2 %: five processes tell it rarely, twenty mostly."""
    logs = math.log(1.02) + 0.02 * NOISES["normal"](np.random.default_rng(5), (200, 20))
    once = sum(looked_at(row, ONE_LOOK)[2] == "faster" for row in logs)
    grown = sum(looked_at(row, UNTIL_20)[2] == "faster" for row in logs)
    assert once < 0.5 * len(logs) < 0.85 * len(logs) < grown
