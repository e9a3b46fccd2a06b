"""The smallest program that Core ML can run: what a process needs before any model is in it."""

from __future__ import annotations

from torch import nn

from edgekd.backends.coreml.conversion import converted
from edgekd.backends.coreml.package import packed


def one_node_graph() -> bytes:
    """One ReLU over float32 `[1, 1, 1, 1]`."""
    return packed(converted(nn.ReLU(), (1, 1, 1), half=False, metadata={}))
