"""Whether a device keeps its pace: one graph for minutes, the last minute beside the first."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from edgekd.core.measurement import Measurement
from edgekd.measure import latency
from edgekd.measure.disturbance import FOREIGN_MAX, foreign_share
from edgekd.measure.estimate import Estimate
from edgekd.measure.findings import Item
from edgekd.measure.further import Rig, timing_images

WINDOW_S = 60.0
FEWEST_WINDOWS = 3
SHORTEST_S = FEWEST_WINDOWS * WINDOW_S
"""Devices take minutes to get hot."""
_GRACE_S = 300.0


def measure_soak(rig: Rig, items: Sequence[Item], seconds: float) -> list[Measurement]:
    """`sustained_ratio` of every item, one after another, each for `seconds` without a pause.

    Windows are minutes, or thirds of a soak that is shorter than three, which is then not valid. The device
    is as warm as the item before left it, which the state at the start tells.
    """
    window_s, made = min(WINDOW_S, seconds / FEWEST_WINDOWS), []
    for number, item in enumerate(items):
        rig.tell(number, len(items), f"soak of {item.subject.name}, {seconds / 60:.3g} minutes")
        with tempfile.TemporaryDirectory(prefix="edgekd-soak-") as folder:
            entry = rig.entry(item, timing_images(item, rig.protocol, Path(folder)))
            deadline_s = seconds + window_s + _GRACE_S
            request = {"seconds": seconds, "window_s": window_s, "deadline_s": deadline_s}
            result = rig.call("soak", entry, **request)
        samples = rig.keep(f"{item.subject.name}.soak.json", {"subject": item.subject.name, **result})
        estimate = sustained(result, window_s)
        how = {"scenario": "soak", "seconds": seconds, "window_s": window_s, "processes": 1}
        made.append(rig.measurement("sustained_ratio", item, estimate, samples, **how))
    return made


def sustained(result: Mapping[str, Any], window_s: float) -> Estimate:
    """The last window's median / the first one's: above 1 the device slowed down.

    One process has no interval. Throttling is what is looked for, so it is told and does not invalidate.
    """
    windows, before = result["windows"], result["before"]
    medians = [window["p50_ns"] / 1e6 for window in windows]
    detail = {
        "p50_ms": medians,
        "p90_ms": [window["p90_ns"] / 1e6 for window in windows],
        "slowest": max(medians) / medians[0],
        "events": events(before, windows, window_s),
        "temperatures_mc": [before["temperatures_mc"], *(w["state"]["temperatures_mc"] for w in windows)],
        "clocks_khz": [before["clocks_khz"], *(window["state"]["clocks_khz"] for window in windows)],
    }
    runs = sum(window["n"] for window in windows)
    return Estimate(
        medians[-1] / medians[0],
        None,
        runs,
        detail,
        _problems(before, windows, window_s),
        tuple(detail["events"]),
    )


def events(before: Mapping[str, Any], windows: Sequence[Mapping[str, Any]], window_s: float) -> list[str]:
    """In which window the device said that it held itself back."""
    told = []
    states = [before, *(window["state"] for window in windows)]
    for number, (earlier, later) in enumerate(pairwise(states), 1):
        for reason in latency.throttling([{"state": {"before": earlier, "after": later}}]):
            told.append(f"{number * window_s / 60:.3g} min: {reason}")
    return told


def _problems(
    before: Mapping[str, Any], windows: Sequence[Mapping[str, Any]], window_s: float
) -> tuple[str, ...]:
    problems = []
    if len(windows) * window_s < SHORTEST_S:
        problems.append(f"too short: {len(windows) * window_s:.3g} s, heat takes {SHORTEST_S:g} s at least")
    share = foreign_share(before, windows[-1]["state"])
    if share is not None and share > FOREIGN_MAX:
        problems.append(f"noise: other processes took {share:.0%} of the cores, over {FOREIGN_MAX:.0%}")
    stolen = latency.steal([{"state": {"before": before, "after": windows[-1]["state"]}}])
    if stolen > latency.STEAL_MAX:
        problems.append(f"noise: time stolen by other guests is {stolen:.3g}, over {latency.STEAL_MAX:g}")
    return tuple(problems)
