"""One small measuring session on any target, and a journal that remembers it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekd.core.measurement import Measurement
from edgekd.measure.protocol import Protocol, WarmUp
from edgekd.measure.runner import measure_session
from edgekd.targets.target import Target
from tests.measure import graphs

PROTOCOL = Protocol(
    name="tiny",
    min_duration_s=0.5,
    min_count=64,
    num_processes=2,
    warm_up=WarmUp(min_s=0.02, max_s=0.05),
    memory_processes=1,
    memory_runs=2,
    cooldown_s=0,
    retry=False,
)


class Journal:
    """Remembers in memory, as a store does on disk."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def __call__(self, key: str, compute: Callable[[], Any]) -> Any:
        if key not in self.values:
            self.values[key] = json.dumps(compute(), allow_nan=False)
        return json.loads(self.values[key])


def measure(target: Target, folder: Path, journal: Journal) -> list[Measurement]:
    """A float and a quantized graph beside each other."""
    evalset = graphs.evaluation_set(folder / "evalset")
    items = [
        graphs.item("teacher", graphs.conv_net(folder / "teacher.onnx", width=24, depth=2), evalset),
        graphs.item("int8", graphs.quantized_net(folder / "int8.onnx"), evalset, "int8"),
    ]
    return measure_session(
        items,
        target=target,
        protocol=PROTOCOL,
        baselines=["teacher", "int8"],
        labels=graphs.CLASSES,
        folder=folder / "session",
        journal=journal,
        emit=lambda event: None,
        seed=7,
    )


def values(measurements: list[Measurement], *quantities: str) -> dict[tuple[str, str], float | None]:
    return {(m.subject.name, m.quantity): m.value for m in measurements if m.quantity in quantities}
