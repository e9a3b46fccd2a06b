"""From raw samples to latencies, ratios and their validity, on samples made to known rules."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgekd.measure import latency
from edgekd.measure.protocol import PROTOCOLS, Protocol

RAPID = PROTOCOLS["rapid"]
QUIET = {"throttle_count": None, "pi_throttled": None, "clocks_khz": {}, "ticks": [0] * 10}


def process(seed: int = 0, *, rounds: int = 30, noise: float = 0.01, **ms: float) -> dict[str, Any]:
    """One process whose graphs take the given milliseconds plus one-sided noise."""
    generator = np.random.default_rng(seed)
    graphs = {
        name: {
            "blocks_ns": (value * 1e6 * (1 + noise * generator.exponential(size=(rounds, 10)))).tolist(),
            "load_ms": 1.0,
            "first_run_ms": 2.0,
            "warm_up": {"runs": 10, "s": 0.5, "settled": True},
            "num_inputs": 8,
        }
        for name, value in ms.items()
    }
    state = {"before": dict(QUIET), "after": dict(QUIET), "clocks_khz": []}
    return {"graphs": graphs, "state": state, "span_s": 2.0}


def quiet(count: int = 5, **ms: float) -> list[dict[str, Any]]:
    return [process(seed, **ms) for seed in range(count)]


def test_p50_is_the_geometric_mean_of_the_processes_medians() -> None:
    processes = [process(i, a=value, noise=0) for i, value in enumerate([1.0, 1.02, 1.01, 0.99, 1.0])]
    found = latency.p50(processes, "a", RAPID)
    assert found.value == pytest.approx(np.exp(np.mean(np.log([1.0, 1.02, 1.01, 0.99, 1.0]))))
    assert found.interval is not None
    assert found.interval.low < found.value < found.interval.high
    assert found.n == 5 * 300
    assert found.problems == ()


def test_describe_agrees_with_numpy() -> None:
    processes = quiet(a=3.0)
    runs = np.concatenate([latency.samples(one, "a").ravel() for one in processes])
    found = latency.describe(processes, "a")
    assert found["mean"] == pytest.approx(runs.mean())
    assert found["sd"] == pytest.approx(runs.std(ddof=1))
    assert (found["min"], found["max"]) == (runs.min(), runs.max())
    assert found["p10"] == pytest.approx(np.percentile(runs, 10))
    assert found["p50"] < found["p90"] < found["p99"]


def test_p90_needs_sixty_four_runs() -> None:
    few = [process(i, rounds=1, a=1.0) for i in range(5)]
    found = latency.p90(few, "a", RAPID)
    assert found.value is None
    assert found.missing == "50 runs; the 90th percentile needs 64"


def test_p90_lies_inside_its_interval() -> None:
    found = latency.p90(quiet(a=1.0), "a", RAPID)
    assert found.value is not None
    assert found.interval is not None
    assert found.interval.low <= found.value <= found.interval.high


def test_speedup_is_time_of_the_other_over_time_of_the_subject() -> None:
    found = latency.speedup(quiet(slow=2.0, fast=1.0), "fast", "slow", RAPID)
    assert found.value == pytest.approx(2.0, rel=0.02)
    assert found.detail["faster"]
    assert not found.detail["slower"]
    assert found.detail["p50_ratio"]["value"] == pytest.approx(2.0, rel=0.02)
    assert latency.speedup(quiet(slow=2.0, fast=1.0), "slow", "fast", RAPID).detail["slower"]


def test_a_graph_beside_its_twin_is_not_faster() -> None:
    detail = latency.speedup(quiet(a=1.0, b=1.0), "a", "b", RAPID).detail
    assert not detail["faster"]
    assert not detail["slower"]


def test_less_than_one_percent_is_not_faster_however_sure() -> None:
    processes = [process(i, a=1.0, b=1.005, noise=0) for i in range(5)]
    found = latency.speedup(processes, "a", "b", RAPID)
    assert found.interval is not None
    assert found.interval.low > 1
    assert not found.detail["faster"]


def test_slow_spells_that_hit_one_graph_more_do_not_move_the_paired_ratio() -> None:
    processes = quiet(a=1.0, b=1.0)
    for one in processes:
        blocks = np.array(one["graphs"]["a"]["blocks_ns"])
        blocks[:12] *= 5
        one["graphs"]["a"]["blocks_ns"] = blocks.tolist()
    assert latency.speedup(processes, "b", "a", RAPID).value == pytest.approx(1, abs=0.01)


def test_a_wide_ratio_is_invalid() -> None:
    processes = [process(i, a=1.0, b=value) for i, value in enumerate([1.5, 1.7, 1.4, 1.9, 1.6])]
    (problem,) = latency.speedup(processes, "a", "b", RAPID).problems
    assert "interval is +-" in problem


@pytest.mark.parametrize("count", [1, 4])
def test_fewer_than_five_processes_are_invalid(count: int) -> None:
    processes = quiet(count, a=1.0, b=2.0)
    wanted = f"{count} processes, judging needs 5"
    assert wanted in latency.p50(processes, "a", RAPID).problems
    assert wanted in latency.speedup(processes, "a", "b", RAPID).problems


def test_a_profile_that_starts_too_few_processes_says_so() -> None:
    (problem,) = latency.speedup(quiet(2, a=1.0, b=2.0), "a", "b", PROTOCOLS["smoke"]).problems
    assert "profile `smoke`" in problem


def test_too_few_runs_and_too_short_a_session_are_invalid() -> None:
    greedy = Protocol(name="greedy", min_duration_s=60, min_count=10_000)
    problems = latency.p50(quiet(a=1.0), "a", greedy).problems
    assert "too few samples: 1500 of 10000" in problems
    assert "too short: 10.00 s of 60 s" in problems


def test_spread_between_processes_is_noise() -> None:
    processes = [process(i, a=value) for i, value in enumerate([1.0, 1.4, 1.0, 1.3, 1.0])]
    assert any("spread" in reason for reason in latency.noise(processes, "a"))


def test_a_median_far_above_the_minimum_is_noise() -> None:
    processes = quiet(a=1.0)
    processes[0]["graphs"]["a"]["blocks_ns"][0][0] = 0.5e6
    assert any("minimum" in reason for reason in latency.noise(processes, "a"))


def test_drift_is_noise() -> None:
    processes = quiet(a=1.0)
    for one in processes:
        blocks = np.array(one["graphs"]["a"]["blocks_ns"])
        one["graphs"]["a"]["blocks_ns"] = (blocks * np.linspace(1, 1.15, 30)[:, None]).tolist()
    assert any("drift" in reason for reason in latency.noise(processes, "a"))


def test_stolen_time_is_noise() -> None:
    processes = quiet(a=1.0)
    processes[0]["state"]["after"] = {**QUIET, "ticks": [90, 0, 0, 0, 0, 0, 0, 10, 0, 0]}
    assert latency.steal(processes) == pytest.approx(0.1)
    assert any("stolen" in reason for reason in latency.noise(processes, "a"))


def test_a_clock_that_changes_under_load_is_noise() -> None:
    processes = quiet(a=1.0)
    processes[0]["state"]["before"] = {**QUIET, "clocks_khz": {"0": 2_000_000}}
    processes[0]["state"]["clocks_khz"] = [{"0": 1_500_000}]
    assert latency.clock_change(processes) == pytest.approx(0.25)
    assert any("clock" in reason for reason in latency.noise(processes, "a"))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"throttle_count": 3}, {"throttle_count": 4}),
        ({"pi_throttled": "0x0"}, {"pi_throttled": "0x50000"}),
        ({"pi_throttled": "0x4"}, {"pi_throttled": "0x4"}),
    ],
)
def test_throttling_is_said_by_the_device(before: dict[str, Any], after: dict[str, Any]) -> None:
    processes = quiet(a=1.0, b=2.0)
    processes[2]["state"]["before"] = {**QUIET, **before}
    processes[2]["state"]["after"] = {**QUIET, **after}
    assert any("throttled" in reason for reason in latency.noise(processes, "a"))
    assert latency.speedup(processes, "a", "b", RAPID).problems == (), "a paired ratio outlives throttling"


def test_throttling_of_long_ago_is_no_matter() -> None:
    processes = quiet(a=1.0)
    for when in ("before", "after"):
        processes[0]["state"][when] = {**QUIET, "pi_throttled": "0x50000"}
    assert latency.noise(processes, "a") == ()


def test_a_warm_up_that_did_not_settle_is_noted_but_valid() -> None:
    processes = quiet(a=1.0)
    processes[1]["graphs"]["a"]["warm_up"]["settled"] = False
    found = latency.p50(processes, "a", RAPID)
    assert found.problems == ()
    assert found.notes == ("warm-up had not settled in 1 of 5 processes",)


@pytest.mark.parametrize(
    ("ratio", "widest"), [(1.0, 0.03), (1.1, 0.03), (1.3, 0.03), (2.0, 0.0693), (3.5, 0.1253), (0.5, 0.0693)]
)
def test_a_ratio_may_be_as_uncertain_as_three_percent_or_a_tenth_of_its_distance_from_one(
    ratio: float, widest: float
) -> None:
    assert latency.widest_half_width(ratio) == pytest.approx(widest, abs=1e-4)


def test_reasons_in_short_are_told_once_each_with_how_often() -> None:
    noisy = [process(seed, noise=0.01, a=value, b=value) for seed, value in enumerate([1.0, 1.4, 0.7, 1.6])]
    reasons = [f"{name}: {reason}" for name in "ab" for reason in latency.noise(noisy, name)]
    assert [one.partition(" is ")[0] for one in reasons].count("a: noise: p50 / minimum") == 1
    width = "a / b: noise: the ratio's interval is +-15.2%, over 11.3%"
    throttled = "a: throttled: the core throttle counter rose"
    assert latency.in_short([*reasons, width, throttled]) == (
        "p50 spread between processes (2 times), p50 / minimum (2 times), the ratio's interval, "
        "throttled: the core throttle counter rose"
    )
