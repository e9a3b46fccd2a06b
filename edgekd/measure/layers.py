"""What each kernel of an artifact takes on the device: a table to read, never a verdict."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.measure.findings import Item
from edgekd.measure.further import Rig, timing_images

RUNS, WARM_UP = 50, 10
CAVEAT = (
    "from a session with profiling on, which takes time of its own; whole microseconds, so short kernels are "
    "rounded; shares are of the kernels' sum, not of the run"
)
STATISTICS = {False: "p50 of {runs} runs", True: "mean of {runs} runs, for the runtime keeps no single ones"}
"""By whether the runtime says that its times are averages."""


def measure_layers(rig: Rig, item: Item) -> list[dict[str, Any]]:
    """`name`, `op`, `provider`, `p50_us`, `mean_us`, `share`, `statistic` of each kernel, in running order.

    `statistic` says in words what `p50_us` really is: not every runtime keeps the times of single runs.

    In a process of its own; kept as `<subject>.layers.json`. The runtime fuses differently on different
    processors: a profile holds on the device it is from.
    """
    with tempfile.TemporaryDirectory(prefix="edgekd-layers-") as folder:
        entry = rig.entry(item, timing_images(item, rig.protocol, Path(folder)))
        result = rig.call("layers", entry, runs=RUNS, warm_up=WARM_UP)
    total = sum(layer["p50_us"] for layer in result["layers"]) or 1.0
    layers = [
        {key: value for key, value in layer.items() if key != "us"}
        | {"share": layer["p50_us"] / total, "statistic": _statistic(layer, result["runs"])}
        for layer in result["layers"]
    ]
    content = {"subject": item.subject.name, "caveat": CAVEAT, "runs": result["runs"], "layers": layers}
    rig.keep(f"{item.subject.name}.layers.json", content)
    return layers


def _statistic(layer: Mapping[str, Any], runs: int) -> str:
    return STATISTICS[bool(layer.get("averaged"))].format(runs=runs)
