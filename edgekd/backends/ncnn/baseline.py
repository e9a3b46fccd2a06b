"""The smallest graph that ncnn can run: what a process needs before any model is in it."""

from __future__ import annotations

from edgekd.backends.ncnn.written_form import sealed

_ONE_POOLING = """7767517
2 2
Input input 0 1 input 0=1 1=1 2=1
Pooling average 1 1 input logits 0=1 4=1
"""


def one_node_graph() -> bytes:
    """An average over float32 `[1, 1, 1, 1]`; it has no weights, and so needs no `.bin` beside it."""
    return sealed(_ONE_POOLING, weights=b"", metadata={})
