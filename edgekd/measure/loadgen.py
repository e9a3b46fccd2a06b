"""A second opinion on this machine: an artifact driven by MLCommons' LoadGen, never an MLPerf result."""

from __future__ import annotations

import importlib.util
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from edgekd.core.errors import MissingDependencyError, UsageError
from edgekd.measure.findings import Item
from edgekd.measure.further import Rig, timing_images

PACKAGE = "mlcommons-loadgen"
Scenario = Literal["SingleStream", "Offline"]
_NS_IN_MS = 1e6


def run_loadgen(rig: Rig, item: Item, scenario: Scenario) -> dict[str, Any]:
    """`title`, `valid`, and `p50_ms` and `p90_ms` (SingleStream) or `samples_per_s` (Offline).

    For as long and as often as the protocol says, in one process. Kept, with LoadGen's whole summary, as
    `<subject>.loadgen-<scenario>.json`. Raises `UsageError` on a target that is not this machine,
    `MissingDependencyError` without the extra `loadgen`.
    """
    target = rig.device.target
    if target.kind != "local":
        raise UsageError("LoadGen runs on this machine only", where=target.name, choices=("local",))
    if importlib.util.find_spec("mlperf_loadgen") is None:
        raise MissingDependencyError(PACKAGE, extra="loadgen")
    protocol = rig.protocol
    rig.tell(0, 1, f"LoadGen {scenario} of {item.subject.name}")
    with tempfile.TemporaryDirectory(prefix="edgekd-loadgen-") as folder:
        entry = rig.entry(item, timing_images(item, protocol, Path(folder)))
        request = {"scenario": scenario, "seconds": protocol.min_duration_s, "min_count": protocol.min_count}
        summary = rig.call("loadgen", entry, **request)["summary"]
    title = f"LoadGen {version(PACKAGE)} {scenario}, not an MLPerf result"
    found = {"title": title, "subject": item.subject.name, **told(summary)}
    rig.keep(f"{item.subject.name}.loadgen-{scenario}.json", {**found, "summary": summary})
    return found


def told(summary: dict[str, str]) -> dict[str, Any]:
    """The numbers of LoadGen's summary that the scenario has."""
    found: dict[str, Any] = {"valid": summary.get("Result is") == "VALID"}
    if "Samples per second" in summary:
        return {**found, "samples_per_s": float(summary["Samples per second"])}
    for name, percentile in (("p50_ms", "50.00"), ("p90_ms", "90.00")):
        nanoseconds = summary.get(f"{percentile} percentile latency (ns)")
        found[name] = None if nanoseconds is None else float(nanoseconds) / _NS_IN_MS
    return found
