"""An agent whose facts are real and whose times are made up, for tests of what follows from times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgekd.measure.device import Device


class MadeUpAgent:
    """Takes the place of `Device.call`; interrupted (Ctrl-C) after `allowed` timed processes.

    `ms` maps a model to its milliseconds, 1 if it is not there; `spread` to the largest surplus, as a
    fraction, that a process draws for it.
    """

    def __init__(self, device: Mapping[str, Any]) -> None:
        """`device` is what a real measurement says of its device."""
        self.facts = {name: value for name, value in device.items() if name not in ("target", "versions")}
        self.versions, self.calls, self.allowed = device["versions"], 0, 100
        self.ms: dict[str, float] = {}
        self.spread: dict[str, float] = {}

    def __call__(
        self, device: Device, mode: str, entries: Sequence[Any] = (), **named: Any
    ) -> dict[str, Any]:
        answer: dict[str, Any] = {"facts": self.facts, "versions": self.versions, "absent": {}}
        if mode == "facts":
            return answer
        assert mode == "latency"
        if self.calls == self.allowed:
            raise KeyboardInterrupt
        self.calls += 1
        return {**answer, "result": self.process([entry["name"] for entry in entries], named["seed"])}

    def process(self, names: Sequence[str], seed: int) -> dict[str, Any]:
        """What one process finds; all its runs of a model take the same time."""
        generator = np.random.default_rng(seed)
        surplus = {name: 1 + self.spread.get(name, 0.0) * generator.random() for name in names}
        state: dict[str, Any] = {
            "ticks": None,
            "clocks_khz": {},
            "throttle_count": None,
            "pi_throttled": None,
        }
        return {
            "graphs": {name: graph(self.ms.get(name, 1.0) * surplus[name]) for name in names},
            "state": {"before": state, "after": state, "clocks_khz": []},
            "span_s": 100.0,
        }


def graph(ms: float, rounds: int = 13) -> dict[str, Any]:
    beside = {"load_ms": 1.0, "first_run_ms": 1.0, "warm_up": {"settled": True}, "num_inputs": 1}
    return {"blocks_ns": [[ms * 1e6] * 10] * rounds, **beside}
