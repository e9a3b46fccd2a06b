"""Energy of one inference beyond idling, from a device's sensor or a meter outside; never an estimate."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.core.errors import DataError, UsageError
from edgekd.measure import statistics
from edgekd.measure.disturbance import FOREIGN_MAX, foreign_share
from edgekd.measure.estimate import Estimate
from edgekd.measure.protocol import Protocol
from edgekd.targets.target import Target

SHORTEST_S = 10.0
"""Shorter stretches say too little: sensors average, and their readings are few."""
FEWEST_READINGS = 10
IDLE_CHANGE_MAX = 0.10
RESOLVED = 0.01
"""What running must take beyond idling, as a share of idling, to be more than the sensor's own doubt."""
WIDEST_GAP_S = 2.0
"""Of a meter's readings."""
PERIOD_S = 0.1
"""How often a sensor of the device is read."""

Process = Mapping[str, Any]
"""What the agent's energy mode returned: `sensors`, `idle` (two stretches), `graphs` (one each)."""


@dataclass(frozen=True)
class Source:
    """Where energy is read. `meter`: a CSV file on this machine, or None for the device's own sensor."""

    name: str
    meter: Path | None = None


def source_of(target: Target, facts: Mapping[str, Any], protocol: Protocol) -> Source | str:
    """Where energy is read on `target`, or why it is not.

    The target's option `energy` is `false`, or `{meter: FILE}` with a CSV file of epoch seconds and watts.
    Raises `UsageError` for anything else.
    """
    asked = target.options.get("energy", True)
    if isinstance(asked, Mapping) and set(asked) == {"meter"} and isinstance(asked["meter"], str):
        source: Source | str = Source(f"meter {Path(asked['meter']).name}", Path(asked["meter"]))
    elif not isinstance(asked, bool):
        choices = ("false", "{meter: FILE.csv}")
        raise UsageError(f"`energy` is {asked!r}", where=f"options of {target.name}", choices=choices)
    elif not asked:
        return "switched off (`energy: false` in the target's options)"
    else:
        source = _sensor(facts)
    if isinstance(source, Source) and protocol.energy_processes == 0:
        return f"the profile `{protocol.name}` is too short for it"
    return source


def _sensor(facts: Mapping[str, Any]) -> Source | str:
    rails = list(facts.get("energy_rails") or [])
    if rails:
        return Source(rails[0])
    if facts.get("energy_unreadable"):
        return f"no energy sensor can be read: {facts['energy_unreadable']}"
    return "the device has no energy sensor that can be read (RAPL, INA3221, hwmon, battery gauge)"


def per_inference(processes: Sequence[Process], name: str, source: Source) -> Estimate:
    """Millijoules of one run of `name` beyond what idling takes in the same time.

    Geometric mean over processes with a Student-t interval; one process has none. No value where running took
    no more than idling, by 1 % or by what the two stretches of idling differ: the sensor does not resolve it.
    """
    found = [_one(process, name) for process in processes]
    detail = {
        "source": _described(processes[0], source),
        "sampling_hz": [one["sampling_hz"] for one in found],
        "idle_w": [one["idle_w"] for one in found],
        "load_w": [one["load_w"] for one in found],
        "gross_mj": [one["gross_mj"] for one in found],
        "process_mj": [one["net_mj"] for one in found],
        "seconds": [one["seconds"] for one in found],
        "clock_uncertainty_s": max(process.get("clock_uncertainty_s", 0.0) for process in processes),
    }
    runs = sum(one["runs"] for one in found)
    if not all(_resolved(one) for one in found):
        reason = f"running took no more power than idling, as far as {detail['source']} tells"
        return Estimate(None, None, runs, detail, missing=reason)
    value, interval = statistics.mean_of_logs([one["net_mj"] for one in found])
    problems = tuple(dict.fromkeys(problem for process in processes for problem in _problems(process, name)))
    notes = () if interval else ("one process: how far another would differ is not known",)
    return Estimate(value, interval, runs, detail, problems, (*notes, *_unsteady(found)))


def _one(process: Process, name: str) -> dict[str, Any]:
    load, idle = process["graphs"][name], process["idle"]
    idle_w = sum(one["joules"] for one in idle) / sum(one["span_s"] for one in idle)
    net_j = load["joules"] - idle_w * load["span_s"]
    return {
        "runs": load["runs"],
        "seconds": load["span_s"],
        "idle_w": [one["joules"] / one["span_s"] for one in idle],
        "load_w": load["joules"] / load["span_s"],
        "gross_mj": 1e3 * load["joules"] / load["runs"],
        "net_mj": 1e3 * net_j / load["runs"],
        "sampling_hz": load["samples"] / load["span_s"],
    }


def _resolved(found: Mapping[str, Any]) -> bool:
    before, after = found["idle_w"]
    doubt = max(abs(after - before), RESOLVED * (before + after) / 2)
    return bool(found["net_mj"] > 0 and found["load_w"] - (before + after) / 2 > doubt)


def _described(process: Process, source: Source) -> str:
    kinds = {"rapl": "RAPL", "rail": "INA3221", "power": "hwmon", "battery": ""}
    named = [f"{kinds.get(one['kind'], one['kind'])} {one['name']}".strip() for one in process["sensors"]]
    return " + ".join(named) or source.name


def _problems(process: Process, name: str) -> list[str]:
    stretches, problems = [*process["idle"], process["graphs"][name]], []
    shortest = min(one["span_s"] for one in stretches)
    if shortest < SHORTEST_S:
        problems.append(f"too short: {shortest:.1f} s, a sensor needs {SHORTEST_S:g} s")
    counts = [one["samples"] for one in stretches]
    if min(counts) < FEWEST_READINGS:
        problems.append(f"too few readings: {min(counts)} of at least {FEWEST_READINGS}")
    shares = [foreign_share(one["state"]["before"], one["state"]["after"]) or 0.0 for one in stretches]
    if max(shares) > FOREIGN_MAX:
        problems.append(f"noise: other processes took {max(shares):.0%} of the cores, over {FOREIGN_MAX:.0%}")
    return problems


def _unsteady(found: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    changes = [abs(one["idle_w"][1] / one["idle_w"][0] - 1) for one in found if one["idle_w"][0] > 0]
    most = max(changes, default=0.0)
    return (f"idle power changed by {most:.0%} meanwhile",) if most > IDLE_CHANGE_MAX else ()


# --- a meter outside ----------------------------------------------------------------------------------------


def with_meter(result: Process, meter: Path, asked: float, answered: float) -> dict[str, Any]:
    """The agent's stretches with the joules that a meter's CSV file has for them.

    asked, answered: this machine's clock before and after the agent was called. The device's clock may be
    another one: it is taken to have read `ended` when the answer came, which is late by no more than the rest
    of the call's time, told as `clock_uncertainty_s`. Raises `DataError` for a file that does not cover them.
    """
    times, watts = read_meter(meter)
    offset = answered - result["ended"]
    began = result["idle"][0]["started"]
    late = max(0.0, (answered - asked) - (result["ended"] - began))

    def metered(stretch: Mapping[str, Any]) -> dict[str, Any]:
        start, end = stretch["started"] + offset, stretch["ended"] + offset
        joules, samples = joules_between(times, watts, start, end, where=str(meter))
        return {**stretch, "joules": joules, "samples": samples}

    graphs = {name: metered(stretch) for name, stretch in result["graphs"].items()}
    idle = [metered(stretch) for stretch in result["idle"]]
    return {**result, "idle": idle, "graphs": graphs, "clock_uncertainty_s": late}


def read_meter(path: Path) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Epoch seconds and watts, columns `t_epoch_s,watts` with or without a header; raises `DataError`."""
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = [row for row in csv.reader(stream) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read the meter's file: {error}", where=str(path)) from error
    if rows and rows[0][0].strip() == "t_epoch_s":
        rows = rows[1:]
    if rows and len(rows[-1]) < 2:
        rows.pop()  # a line that the meter is still writing
    found = np.array([_reading(row, path) for row in rows], np.float64).reshape(-1, 2)
    if len(found) < 2 or (np.diff(found[:, 0]) <= 0).any():
        raise DataError("the meter's file needs at least two readings, in the order of time", where=str(path))
    return found[:, 0], found[:, 1]


def _reading(row: list[str], path: Path) -> tuple[float, float]:
    try:
        when, watts = float(row[0]), float(row[1])
    except (ValueError, IndexError) as error:
        raise DataError(f"not `t_epoch_s,watts`: {','.join(row)[:80]}", where=str(path)) from error
    if not math.isfinite(when) or not math.isfinite(watts):
        raise DataError(f"not finite: {','.join(row)[:80]}", where=str(path))
    return when, watts


def joules_between(
    times: npt.NDArray[np.float64], watts: npt.NDArray[np.float64], start: float, end: float, *, where: str
) -> tuple[float, int]:
    """Energy under the readings from `start` to `end` (trapezoidal, ends interpolated), and their number."""
    inside = (times > start) & (times < end)
    if times[0] > start or times[-1] < end:
        raise DataError(
            f"the meter's readings do not cover the {end - start:.0f} s that were measured", where=where
        )
    at = np.concatenate([[start], times[inside], [end]])
    if np.diff(at).max() > WIDEST_GAP_S:
        raise DataError(f"the meter's readings lie more than {WIDEST_GAP_S:g} s apart", where=where)
    values = np.interp(at, times, watts)
    return float((np.diff(at) * (values[1:] + values[:-1]) / 2).sum()), int(inside.sum())
