"""What a graph takes, and which kernels really ran, in a process of its own. Python 3.8 and newer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from .agent import check_digest, load
else:
    from agent import check_digest, load


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """`input_shape` (`[batch, C, H, W]`) and `profile`, without its single nodes."""
    (artifact,) = request["artifacts"]
    check_digest(artifact)
    graph = load(request, artifact)
    profile = {key: value for key, value in graph.profile().items() if key != "nodes"}
    return {"input_shape": list(graph.input_shape), "profile": profile}
