"""Which profile fits a time."""

from __future__ import annotations

import pytest

from edgekd.measure.protocol import PROTOCOLS
from edgekd.pipeline.audit_time import Pace, choose, least_thorough, seconds_of

FAST = Pace(start_s=0.5, image_s=0.001)


def test_longer_profiles_take_longer_and_more_images_as_well() -> None:
    times = [seconds_of(PROTOCOLS[name], [FAST], 1000) for name in ("smoke", "rapid", "quick", "normal")]
    assert times == sorted(times)
    assert times[-1] > PROTOCOLS["normal"].min_duration_s
    more = seconds_of(PROTOCOLS["quick"], [FAST], 51_000) - seconds_of(PROTOCOLS["quick"], [FAST], 1000)
    assert more == pytest.approx(50.0)


def test_a_slow_graph_is_bound_by_its_runs_not_by_the_clock() -> None:
    slow = Pace(start_s=0.5, image_s=1.0)
    protocol = PROTOCOLS["rapid"]
    runs = protocol.num_processes * protocol.min_rounds * protocol.block
    assert seconds_of(protocol, [slow], 10) > runs


def test_the_most_thorough_that_fits_is_chosen() -> None:
    assert choose(3600, [FAST], 1000) == ("normal", None)
    assert choose(60, [FAST], 1000) == ("quick", None)
    assert choose(45, [FAST], 1000)[0] == "rapid"


def test_a_time_for_smoke_alone_says_that_times_will_not_be_judged() -> None:
    name, remark = choose(12, [FAST], 1000)
    assert name == "smoke"
    assert remark is not None
    assert "judging needs" in remark


def test_a_time_for_nothing_says_how_long_it_will_take() -> None:
    name, remark = choose(0.1, [FAST], 1000)
    assert name == "smoke"
    assert remark is not None
    assert "resumably" in remark


def test_the_slowest_target_decides() -> None:
    slow = Pace(start_s=0.5, image_s=0.05)
    assert least_thorough(60, [[FAST], [slow]], 1000)[0] == "smoke"
