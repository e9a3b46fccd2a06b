"""Runs one graph for minutes without a pause: does the device keep its pace? Python 3.8 and newer."""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from .agent import Timed
    from .agent_facts import state
else:
    from agent import Timed
    from agent_facts import state


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Windows of `window_s` until `seconds` are over, each with its quantiles and the state at its end.

    There is no warm-up: how a cold device slows down is what is looked for.
    """
    (artifact,) = request["artifacts"]
    graph = Timed(request, artifact)
    before, windows = state(), []
    gc.collect()
    gc.disable()
    started = time.perf_counter()
    while time.perf_counter() - started < request["seconds"]:
        windows.append(_window(graph, request["window_s"], started))
    gc.enable()
    return {"before": before, "windows": windows, "num_inputs": len(graph.inputs)}


def _window(graph: Timed, window_s: float, started: float) -> dict[str, Any]:
    """Single runs one after another; only their quantiles are kept."""
    runs: list[int] = []
    first = time.perf_counter()
    end = first + window_s
    while time.perf_counter() < end:
        runs.append(graph.once())
    after = state()
    runs.sort()
    quantiles = {"min": 0.0, "p10": 0.1, "p50": 0.5, "p90": 0.9, "max": 1.0}
    found = {f"{name}_ns": runs[round(share * (len(runs) - 1))] for name, share in quantiles.items()}
    return {"start_s": first - started, "n": len(runs), **found, "state": after}
