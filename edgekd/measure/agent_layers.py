"""What each kernel of a graph takes, in a profiled session and process of its own. Python 3.8 and newer."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from .agent import check_digest, load, timing_inputs
else:
    from agent import check_digest, load, timing_inputs


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Median and mean of every kernel over `runs` runs after `warm_up` more, in running order."""
    (artifact,) = request["artifacts"]
    check_digest(artifact)
    graph = load(request, artifact)
    inputs = timing_inputs(graph, artifact, request["seed"])
    count = request["warm_up"] + request["runs"]
    layers = graph.layers([inputs[at % len(inputs)] for at in range(count)], request["warm_up"])
    return {"runs": request["runs"], "num_inputs": len(inputs), "layers": [_summed(one) for one in layers]}


def _summed(layer: dict[str, Any]) -> dict[str, Any]:
    us = layer["us"]
    return {**layer, "us": None, "p50_us": statistics.median(us), "mean_us": statistics.fmean(us)}
