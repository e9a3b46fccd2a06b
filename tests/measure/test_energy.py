"""Energy per inference beyond idling, from counters, powers and a meter's file; all values are made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.core.errors import DataError, UsageError
from edgekd.measure import agent_energy, agent_facts, energy
from edgekd.measure.agent import RequestError
from edgekd.measure.device import open_device
from edgekd.measure.protocol import PROTOCOLS
from edgekd.targets.local import LocalTarget

QUICK = PROTOCOLS["quick"]
SENSOR = energy.Source("rapl")
TICKS = {"core_ticks": 0, "busy_ticks": 0, "own_ticks": 0}


def stretch(
    joules: float, *, s: float = 10.0, runs: int = 0, start: float = 0.0, foreign: int = 0
) -> dict[str, Any]:
    after = {"core_ticks": 2000, "busy_ticks": 1000 + foreign, "own_ticks": 1000}
    return {
        "started": start,
        "ended": start + s,
        "span_s": s,
        "runs": runs,
        "joules": joules,
        "samples": round(10 * s),
        "state": {"before": TICKS, "after": after},
    }


def process(load_j: float, idle_j: float = 20.0, *, runs: int = 1000, **named: Any) -> dict[str, Any]:
    return {
        "sensors": [{"kind": "rapl", "name": "package-0", "path": "p"}],
        "idle": [stretch(idle_j), stretch(idle_j)],
        "graphs": {"net": stretch(load_j, runs=runs, **named)},
        "ended": 30.0,
    }


def test_idling_is_subtracted() -> None:
    """70 J in 10 s against 2 W of idling, for 1000 runs: (70 - 20) J / 1000."""
    found = energy.per_inference([process(70.0)], "net", SENSOR)
    assert found.value == pytest.approx(50.0)
    assert found.n == 1000
    assert found.detail["idle_w"] == [[2.0, 2.0]]
    assert found.detail["gross_mj"] == [pytest.approx(70.0)]
    assert found.detail["source"] == "RAPL package-0"
    assert found.detail["sampling_hz"] == [pytest.approx(10.0)]
    assert found.problems == ()
    assert found.interval is None
    assert found.notes == ("one process: how far another would differ is not known",)


def test_several_processes_give_an_interval() -> None:
    found = energy.per_inference([process(joules) for joules in (70.0, 71.0, 69.0)], "net", SENSOR)
    assert found.value == pytest.approx((50.0 * 51.0 * 49.0) ** (1 / 3))
    assert found.interval is not None
    assert found.interval.low < 50 < found.interval.high


def test_no_more_power_than_idling_is_no_energy() -> None:
    for load_j in (19.9, 20.0, 20.1):
        found = energy.per_inference([process(70.0), process(load_j)], "net", SENSOR)
        assert found.value is None, "1 % more is within a sensor's own doubt"
        assert found.missing == "running took no more power than idling, as far as RAPL package-0 tells"


def test_what_idling_varies_by_is_not_resolved() -> None:
    one = process(24.0)
    one["idle"][1] = stretch(26.0)
    assert energy.per_inference([one], "net", SENSOR).value is None


@pytest.mark.parametrize(
    ("named", "word"),
    [
        ({"s": 4.0}, "too short"),
        ({"foreign": 900}, "other processes took 45%"),
        ({"s": 0.5}, "too few readings"),
    ],
)
def test_what_spoils_it_is_said(named: dict[str, Any], word: str) -> None:
    problems = energy.per_inference([process(70.0, **named)], "net", SENSOR).problems
    assert any(word in problem for problem in problems)


def test_idle_power_that_moved_is_noted() -> None:
    one = process(70.0)
    one["idle"][1] = stretch(26.0)
    assert "idle power changed by 30% meanwhile" in energy.per_inference([one], "net", SENSOR).notes


@pytest.mark.parametrize(
    ("options", "facts", "expected"),
    [
        ({}, {"energy_rails": ["/sys/x"]}, energy.Source("/sys/x")),
        ({"energy": True}, {"energy_rails": ["/sys/x"]}, energy.Source("/sys/x")),
        ({"energy": {"meter": "m.csv"}}, {}, energy.Source("meter m.csv", Path("m.csv"))),
        ({"energy": False}, {"energy_rails": ["/sys/x"]}, "switched off"),
        ({}, {"energy_rails": []}, "no energy sensor that can be read (RAPL"),
        ({}, {"energy_unreadable": "/sys/x is there"}, "no energy sensor can be read: /sys/x is there"),
    ],
)
def test_where_energy_is_read_or_why_not(
    options: dict[str, Any], facts: dict[str, Any], expected: Any
) -> None:
    found = energy.source_of(LocalTarget(name="local", options=options), facts, QUICK)
    assert found == expected if isinstance(expected, energy.Source) else expected in str(found)


@pytest.mark.parametrize("option", [{"sensor": "x"}, "rapl", {"meter": 3}, 1])
def test_other_options_are_refused(option: Any) -> None:
    with pytest.raises(UsageError, match="meter: FILE"):
        energy.source_of(LocalTarget(name="local", options={"energy": option}), {}, QUICK)


def test_a_short_profile_measures_no_energy() -> None:
    found = energy.source_of(LocalTarget(name="local"), {"energy_rails": ["/sys/x"]}, PROTOCOLS["rapid"])
    assert found == "the profile `rapid` is too short for it"


# --- on the device ------------------------------------------------------------------------------------------


def test_a_counter_that_starts_again_goes_on_counting() -> None:
    assert agent_energy.counted([90, 100, 5, 15], most=100) == 10 + 5 + 10
    with pytest.raises(RequestError, match="where it starts again"):
        agent_energy.counted([90, 5], most=None)


def test_powers_are_integrated_by_the_trapezoidal_rule() -> None:
    assert agent_energy.integrated([0.0, 1.0, 3.0], [2.0, 4.0, 0.0]) == pytest.approx(3.0 + 4.0)


@pytest.mark.parametrize(
    ("files", "watts"),
    [
        ({"in1": "5000", "curr1": "2000"}, 10.0),
        ({"power": "2500000"}, 2.5),
        ({"voltage": "4000000", "current": "-500000"}, 2.0),
    ],
)
def test_sensors_speak_in_their_own_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], watts: float
) -> None:
    monkeypatch.setenv(agent_facts.TEST_ROOT, str(tmp_path))
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    sensors = {
        "in1": {"kind": "rail", "path": "/in1", "current": "/curr1"},
        "power": {"kind": "power", "path": "/power"},
        "voltage": {"kind": "battery", "path": "/current", "voltage": "/voltage"},
    }
    assert agent_energy.reading(sensors[next(iter(files))]) == pytest.approx(watts)


def test_the_agent_reads_a_rail_while_it_idles_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graph: Path, evalset: Path
) -> None:
    rails = tmp_path / "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3"
    rails.mkdir(parents=True)
    for name, text in {"in1_input": "5000", "in1_label": "VDD_IN", "curr1_input": "800"}.items():
        (rails / name).write_text(text)
    monkeypatch.setenv(agent_facts.TEST_ROOT, str(tmp_path))
    warm_up = {"min_s": 0.0, "min_count": 1, "max_s": 0.0, "tolerance": 1.0}
    with open_device(LocalTarget(name="local")) as device:
        entry = device.artifact("net", graph)
        answer = device.call("energy", [entry], seconds=0.3, period_s=0.02, warm_up=warm_up, seed=0)
    result = answer["result"]
    assert answer["facts"]["emulated"], "a made-up tree can make nothing valid"
    assert [one["name"] for one in result["sensors"]] == ["VDD_IN"]
    for one in (*result["idle"], result["graphs"]["net"]):
        assert one["joules"] == pytest.approx(4.0 * one["span_s"], rel=1e-6)
        assert one["samples"] >= 3
    assert result["graphs"]["net"]["runs"] > 0
    assert [one["runs"] for one in result["idle"]] == [0, 0]


# --- a meter outside ----------------------------------------------------------------------------------------


def meter(
    path: Path, watts: list[float], start: float = 1000.0, *, step: float = 1.0, head: bool = True
) -> Path:
    lines = ["t_epoch_s,watts"] * head + [f"{start + i * step},{w}" for i, w in enumerate(watts)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("head", [True, False])
def test_a_meters_file_is_integrated_between_any_two_moments(tmp_path: Path, head: bool) -> None:
    times, watts = energy.read_meter(meter(tmp_path / "m.csv", [1.0, 3.0, 5.0, 5.0], head=head))
    joules, samples = energy.joules_between(times, watts, 1000.5, 1002.5, where="m.csv")
    assert joules == pytest.approx(0.5 * (2 + 3) / 2 + (3 + 5) / 2 + 0.5 * 5)
    assert samples == 2


def test_the_devices_clock_is_set_by_ours(tmp_path: Path) -> None:
    """The device thinks it is 1970; its answer came at 1035.2, so its second 30 was our 1035.2."""
    path = meter(tmp_path / "m.csv", [4.0] * 15 + [9.0] * 12 + [4.0] * 15)
    result = process(0.0)
    result["idle"] = [stretch(0.0, start=0.0), stretch(0.0, start=20.0)]
    result["graphs"]["net"] = stretch(0.0, start=10.0, runs=100)
    found = energy.with_meter(result, path, asked=1004.9, answered=1035.2)
    assert found["graphs"]["net"]["joules"] == pytest.approx(90.0)
    assert found["idle"][0]["joules"] == pytest.approx(8.8 * 4 + (4 + 9) / 2 + 0.2 * 9)
    assert found["graphs"]["net"]["samples"] == 10
    assert found["clock_uncertainty_s"] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least two readings"),
        ("1,2\n1,3\n", "in the order of time"),
        ("1,2\n2,watt\n3,1\n", "not `t_epoch_s,watts`"),
        ("1,nan\n2,1\n", "not finite"),
        ("1,2\n2\n3,4\n", "not `t_epoch_s,watts`"),
    ],
)
def test_a_meters_file_that_makes_no_sense_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        energy.read_meter(tmp_path / "m.csv")


def test_a_line_that_the_meter_is_still_writing_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("1,2\n2,3\n17000")
    times, _ = energy.read_meter(tmp_path / "m.csv")
    assert times.tolist() == [1.0, 2.0]


def test_a_file_that_does_not_cover_the_time_or_has_gaps_is_refused() -> None:
    times, watts = np.array([0.0, 1.0, 5.0, 6.0]), np.ones(4)
    with pytest.raises(DataError, match="do not cover"):
        energy.joules_between(times, watts, -1.0, 0.5, where="m")
    with pytest.raises(DataError, match="more than 2 s apart"):
        energy.joules_between(times, watts, 0.5, 5.5, where="m")
