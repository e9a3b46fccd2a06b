from __future__ import annotations

from typing import Any

import pytest

from edgekd.core.measurement import Interval, Quantity
from edgekd.measure.across_sessions import LogMean, change_of_ratio
from edgekd.pipeline.history.change import Change, device_changes
from edgekd.pipeline.history.on_devices import REMEASURE
from edgekd.pipeline.history.record import Entry
from edgekd.pipeline.history.series import change
from tests.pipeline.history.cases import DEVICE, NOISE, STEADY, kept, p50, point, session, speedup, subject


def scaled(factor: float) -> tuple[float, ...]:
    return tuple(factor * part for part in STEADY)


def time_change(before: Entry, after: Entry, quantity: Quantity = "latency_p50_ms") -> Change:
    return change(point(before, quantity), point(after, quantity))


def test_absolute_times_of_two_sessions_are_not_compared() -> None:
    found = time_change(session("a", p50(1.0)), session("b", p50(3.0), day=2))
    assert (found.outcome, found.why) == ("not comparable", REMEASURE)
    assert REMEASURE == "measured in different sessions; `edgekd gate --against` re-measures"


def test_times_are_compared_as_ratios_to_an_artifact_that_both_sessions_measured() -> None:
    """Twice, then 1.5 times as fast as the teacher: the time has become 4/3, whatever the clocks said."""
    before = session("a", p50(1.0), speedup(STEADY))
    after = session("b", p50(0.8), speedup(scaled(0.75)), day=2)
    found = time_change(before, after)
    wanted = change_of_ratio(LogMean.of(scaled(0.75)), LogMean.of(STEADY))
    assert (found.outcome, found.value, found.interval) == ("worse", *wanted)
    assert found.value == pytest.approx(4 / 3)
    assert found.why == "as ratios to `teacher`, which both sessions measured"


def test_the_speed_up_itself_falls_by_as_much_as_the_time_rises() -> None:
    before, after = session("a", speedup(STEADY)), session("b", speedup(scaled(0.75)), day=2)
    found = time_change(before, after, "speedup")
    assert found.outcome == "worse"
    assert found.value == pytest.approx(0.75)


def test_a_small_change_between_sessions_is_not_claimed() -> None:
    """4 % with processes that agree within half a per cent: more than that moves between two sessions."""
    before = session("a", p50(), speedup(STEADY))
    assert time_change(before, session("b", p50(), speedup(scaled(0.96)), day=2)).outcome == "cannot tell"


def test_no_change_is_said_where_the_interval_is_narrow() -> None:
    before = session("a", p50(), speedup(STEADY))
    assert time_change(before, session("a", p50(), speedup(scaled(1.01)), day=2)).outcome == "no change"


def test_of_several_artifacts_that_both_measured_the_nearest_in_speed_is_taken() -> None:
    others = [subject("7", "teacher"), subject("6", "student")]
    near = tuple(part / 1.9 for part in STEADY)
    entries = [
        session(letter, p50(), speedup(STEADY), speedup(near, "student"), day=number, others=others)
        for letter, number in (("a", 1), ("b", 2))
    ]
    assert time_change(entries[0], entries[1]).why == "as ratios to `student`, which both sessions measured"


def test_another_teacher_of_the_same_name_is_no_reference() -> None:
    after = session("b", p50(), speedup(STEADY), day=2, others=[subject("8", "teacher")])
    assert time_change(session("a", p50(), speedup(STEADY)), after).why == REMEASURE


def test_an_invalid_ratio_is_no_reference_and_the_reason_is_told() -> None:
    after = session("b", p50(), speedup(STEADY, validity=NOISE), day=2)
    found = time_change(session("a", p50(), speedup(STEADY)), after)
    assert found.outcome == "not comparable"
    assert "invalid: noise: the ratio's interval is +-4.0%" in found.why


def test_a_graph_that_is_its_own_reference_is_none() -> None:
    same = Interval(low=0.99, high=1.01, method="same-graph")
    one = kept("speedup", 1.0, against="teacher", interval=same)
    assert time_change(session("a", p50(), one), session("b", p50(), one, day=2)).why == REMEASURE


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"device": {**DEVICE, "kernel": "6.6.40"}}, "kernel 6.6.31 -> 6.6.40"),
        ({"device": {**DEVICE, "target.threads": 1}}, "target.threads 4 -> 1"),
        ({"protocol": {"batch": 8, "block": 10}}, "batch 1 -> 8"),
        ({"device": {**DEVICE, "governor": "ondemand", "kernel": "7"}}, "performance -> ondemand and 1 more"),
    ],
)
def test_a_changed_device_lets_no_ratio_be_carried_over(changed: dict[str, Any], told: str) -> None:
    after = session("b", p50(), speedup(STEADY), day=2, **changed)
    found = time_change(session("a", p50(), speedup(STEADY)), after)
    assert found.outcome == "not comparable"
    assert "the conditions changed" in found.why
    assert told in found.why


def test_changes_of_the_device_are_told_by_name() -> None:
    before = session("a", device={**DEVICE, "cores_allowed": [0, 1]})
    after = session("b", device={**DEVICE, "cores_allowed": [0], "governor": "ondemand"})
    assert device_changes(before, after) == (
        "cores_allowed 0,1 -> 0",
        "governor performance -> ondemand",
    )
    assert device_changes(before, session("b", device=DEVICE)) == ("cores_allowed 0,1 -> (none)",)


# --- both in one session ------------------------------------------------------------------------------------

OLD = subject("a", "release")


def test_what_one_session_held_is_compared_there_to_one_per_cent() -> None:
    """The later session measured the earlier artifact beside: 2 % slower, by the processes."""
    ratios = (0.980, 0.981, 0.979, 0.980, 0.980)
    after = session("b", p50(), speedup(ratios, "release"), speedup(STEADY), day=2, others=[OLD])
    found = time_change(session("a", p50()), after)
    direct = after.measurements[1].interval
    assert direct is not None and found.interval is not None
    assert (found.outcome, found.why) == ("worse", "both in one session, interleaved")
    assert found.value == pytest.approx(1 / 0.98, rel=1e-3)
    assert (found.interval.low, found.interval.high) == pytest.approx((1 / direct.high, 1 / direct.low))


def test_it_does_not_matter_which_of_the_two_was_the_baseline() -> None:
    """As `edgekd bench` leaves it: the speed-up of the old one over the new one."""
    of_old = speedup([1.02, 1.021, 1.019, 1.02, 1.02], "quantized", subject="release")
    found = time_change(session("a", p50()), session("b", p50(), of_old, day=2, others=[OLD]))
    assert found.outcome == "worse"
    assert found.value == pytest.approx(1.02, rel=1e-3)


def test_a_difference_below_one_per_cent_is_no_change_even_if_it_is_certain() -> None:
    one = speedup([0.9960, 0.9961, 0.9959, 0.9960, 0.9960], "release")
    found = time_change(session("a", p50()), session("b", p50(), one, day=2, others=[OLD]))
    assert found.outcome == "no change"


def test_an_earlier_session_that_held_both_counts_on_an_unchanged_device_only() -> None:
    new = subject("b", "candidate")
    both = speedup([0.90, 0.91, 0.89, 0.90, 0.90], "quantized", subject="candidate")
    before = session("a", p50(), both, others=[new])
    assert time_change(before, session("b", p50(), day=2)).outcome == "worse"
    moved = session("b", p50(), day=2, device={**DEVICE, "kernel": "7"})
    assert time_change(before, moved).outcome == "not comparable"


def test_a_tail_is_compared_within_a_session_only() -> None:
    tail = kept("latency_p90_ms", 1.4, (1.3, 1.5))
    ends = Interval(low=0.78, high=0.82, method="student-t-log-processes")
    held = speedup(STEADY, "release", p90_ratio=ends)
    within = time_change(session("a", tail), session("b", tail, held, day=2, others=[OLD]), "latency_p90_ms")
    assert within.outcome == "worse"
    assert within.interval is not None
    assert within.interval.high == pytest.approx(1 / 0.78)
    both = [session(letter, tail, speedup(STEADY, p90_ratio=ends)) for letter in "ab"]
    assert "a tail's ratio moves with the load" in time_change(both[0], both[1], "latency_p90_ms").why


# --- size, memory, energy -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("new", "outcome"), [(900, "better"), (1000, "no change"), (1001, "worse")])
def test_sizes_are_exact(new: float, outcome: str) -> None:
    found = time_change(
        session("a", kept("size_bytes", 1000)), session("b", kept("size_bytes", new)), "size_bytes"
    )
    assert (found.outcome, found.value) == (outcome, new / 1000)


@pytest.mark.parametrize(("new", "outcome"), [(65.1e6, "no change"), (70e6, "worse"), (60e6, "better")])
def test_memory_of_two_sessions_is_compared(new: float, outcome: str) -> None:
    entries = [
        session(letter, kept("memory_bytes", value, (value - 1e5, value + 1e5)))
        for letter, value in (("a", 65e6), ("b", new))
    ]
    assert time_change(entries[0], entries[1], "memory_bytes").outcome == outcome


@pytest.mark.parametrize("quantity", ["energy_mj", "throughput_ips", "cold_start_ms", "sustained_ratio"])
def test_what_moves_with_the_day_is_not_compared(quantity: Quantity) -> None:
    entries = [session(letter, kept(quantity, 2.0, (1.9, 2.1))) for letter in "ab"]
    assert time_change(entries[0], entries[1], quantity).why == REMEASURE


def test_what_was_not_measured_is_not_compared() -> None:
    absent = kept("latency_p50_ms", None, not_measured="emulated")
    found = time_change(session("a", p50()), session("b", absent))
    assert found == Change("not comparable", "not measured: emulated")
