"""Adds nodes and constants to a captured graph, each with the shape of its result."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

_ATEN = torch.ops.aten


def constant(module: fx.GraphModule, value: torch.Tensor) -> fx.Node:
    """A new buffer of `module`, and the node that reads it (at the graph's insertion point)."""
    taken = {name for name, _ in module.named_buffers()}
    numbers = itertools.count(len(taken))
    name = next(name for name in (f"edgekd_constant_{number}" for number in numbers) if name not in taken)
    module.register_buffer(name, value)
    return module.graph.get_attr(name)


def shape_of(node: fx.Node) -> list[int]:
    """Of the tensor that a node gives."""
    return list(node.meta["val"].shape)


def refresh(node: fx.Node) -> None:
    """Find the shape, and the order in memory, of a node's result anew from those of its inputs."""
    from torch._guards import detect_fake_mode

    shapes = detect_fake_mode(node.meta["val"])
    assert shapes is not None and callable(node.target)
    arguments, options = fx.map_arg((node.args, node.kwargs), lambda one: one.meta["val"])
    with shapes:
        node.meta["val"] = node.target(*arguments, **options)


class Writer:
    """Writes what stands for one node of a graph: in its place, with its module and line of source."""

    def __init__(self, module: fx.GraphModule, node: fx.Node) -> None:
        from torch._guards import detect_fake_mode

        shapes = detect_fake_mode(node.meta["val"])
        assert shapes is not None  # the values of a captured graph are shapes alone
        self.module, self.node, self._shapes = module, node, shapes

    def call(self, target: Callable[..., Any], *arguments: Any, **options: Any) -> fx.Node:
        """A node that calls `target`; the shape of its result follows from those of `arguments`."""
        with self.module.graph.inserting_before(self.node):
            made = self.module.graph.call_function(target, arguments, options)
        with self._shapes:
            value = target(*fx.map_arg(arguments, lambda one: one.meta["val"]), **options)
        made.meta = {**self.node.meta, "val": value}
        return made

    def constant(self, value: torch.Tensor) -> fx.Node:
        """A node that reads a new buffer."""
        with self.module.graph.inserting_before(self.node):
            made = constant(self.module, value)
        made.meta = {**self.node.meta, "val": self._shapes.from_tensor(value)}
        return made

    def number(self, value: float, like: fx.Node) -> fx.Node:
        """A constant that broadcasts over `like`: XNNPACK reads no plain numbers."""
        return self.constant(torch.full([1] * len(shape_of(like)), float(value)))

    def view(self, value: fx.Node, shape: list[int]) -> fx.Node:
        """`value` in another shape, with the same order of elements."""
        if shape_of(value) == shape:
            return value
        if not value.meta["val"].is_contiguous():  # what was turned cannot be seen in another shape
            value = self.call(_ATEN.clone.default, value, memory_format=torch.contiguous_format)
        return self.call(_ATEN.view.default, value, shape)
