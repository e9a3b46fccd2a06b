"""The smallest graph that TensorRT can run: what a process needs before any model is in it."""

from __future__ import annotations

from edgekd.backends.onnx.baseline import one_node_graph

__all__ = ["one_node_graph"]
