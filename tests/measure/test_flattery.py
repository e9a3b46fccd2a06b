"""A graph that is fast on few of its inputs is not as fast as its fastest runs say."""

from __future__ import annotations

import numpy as np

from edgekd.measure import latency
from edgekd.measure.protocol import PROTOCOLS
from tests.measure.test_latency import process, quiet

RAPID = PROTOCOLS["rapid"]


def slow_on(share: float, times: float, count: int = 5) -> list[dict[str, object]]:
    """Processes in which `a` takes `times` as long on that share of its runs."""
    processes = quiet(count, a=1.0, b=2.0)
    for seed, one in enumerate(processes):
        blocks = np.asarray(one["graphs"]["a"]["blocks_ns"])
        slow = np.random.default_rng(seed).random(blocks.shape) < share
        one["graphs"]["a"]["blocks_ns"] = np.where(slow, blocks * times, blocks).tolist()
    return processes


def test_a_graph_that_is_mostly_slow_is_no_valid_speed_up() -> None:
    found = latency.speedup(slow_on(0.6, 10.0), "a", "b", RAPID)
    assert found.value is not None
    assert found.value > 1.9
    (problem,) = found.problems
    assert problem.startswith("noise or inputs")


def test_a_graph_that_is_rarely_slow_keeps_its_typical_speed() -> None:
    assert latency.speedup(slow_on(0.2, 10.0), "a", "b", RAPID).problems == ()


def test_a_reference_that_is_mostly_slow_flatters_nobody() -> None:
    assert latency.speedup(slow_on(0.6, 10.0), "b", "a", RAPID).problems == ()


def test_common_noise_on_both_is_no_flattery() -> None:
    processes = [process(seed, noise=0.5, a=1.0, b=3.0) for seed in range(5)]
    found = latency.speedup(processes, "a", "b", RAPID)
    assert not any(problem.startswith("noise or inputs") for problem in found.problems)
