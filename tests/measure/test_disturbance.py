"""How much of the cores others took, and whether the kernel held them back."""

from __future__ import annotations

from typing import Any

import pytest

from edgekd.measure import latency
from edgekd.measure.disturbance import cooling, foreign_load, foreign_share
from tests.measure.test_latency import quiet


def ticks(cores: int | None, busy: int | None, own: int | None) -> dict[str, Any]:
    return {"core_ticks": cores, "busy_ticks": busy, "own_ticks": own}


def test_what_is_busy_and_not_ours_is_foreign() -> None:
    """Two cores for two seconds, 100 ticks a second: one is ours, a quarter of the other is not."""
    assert foreign_share(ticks(1000, 100, 50), ticks(1400, 350, 250)) == pytest.approx(50 / 400)


def test_our_own_work_is_never_foreign_by_a_rounded_tick() -> None:
    assert foreign_share(ticks(0, 0, 0), ticks(400, 199, 200)) == 0


@pytest.mark.parametrize("unknown", [ticks(None, 1, 1), ticks(1, None, 1), ticks(1, 1, None), {}])
def test_a_kernel_that_does_not_tell_is_not_accused(unknown: dict[str, Any]) -> None:
    assert foreign_share(unknown, ticks(2, 2, 2)) is None
    assert foreign_load([{"state": {"before": unknown, "after": unknown}}]) == 0


def test_foreign_load_makes_absolute_times_invalid_but_no_ratio() -> None:
    processes = quiet(a=1.0, b=2.0)
    for one in processes:
        one["state"]["before"] |= ticks(0, 0, 0)
        one["state"]["after"] |= ticks(400, 260, 200)
    assert foreign_load(processes) == pytest.approx(0.15)
    assert any(
        "taken by other processes is 0.15, over 0.1" in reason for reason in latency.noise(processes, "a")
    )
    from edgekd.measure.protocol import PROTOCOLS

    assert latency.speedup(processes, "a", "b", PROTOCOLS["rapid"]).problems == ()


def test_a_little_foreign_load_is_no_noise() -> None:
    processes = quiet(a=1.0)
    for one in processes:
        one["state"]["before"] |= ticks(0, 0, 0)
        one["state"]["after"] |= ticks(400, 236, 200)
    assert latency.noise(processes, "a") == ()


def test_cores_that_the_kernel_slows_down_are_throttled() -> None:
    processes = quiet(a=1.0)
    processes[1]["state"]["after"]["cooling"] = {"cooling_device1 cpufreq-cpu0": 2}
    assert latency.noise(processes, "a") == ("throttled: cooling_device1 cpufreq-cpu0 took 2 steps",)
    assert cooling([{"cooling": {"cooling_device1 cpufreq-cpu0": 0}}, {"cooling": None}, {}]) == ()
