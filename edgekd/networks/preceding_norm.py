"""The batch norm whose output arrives at a tap: what a network knows of a pre-activation's distribution."""

from __future__ import annotations

import operator
from collections.abc import Iterator

import torch
from torch import fx, nn

from edgekd.networks.tap import Tap

_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
_TRANSPARENT = (nn.Identity, nn.Dropout, nn.Dropout2d)


def preceding_norm(module: nn.Module, tap: Tap) -> nn.BatchNorm2d | None:
    """The batch norm that makes the value at `tap`; None where there is none or `module` cannot be traced.

    Where the value is a sum (residual networks), the batch norm of the longest branch: that of the block's
    last convolution, and not that of a shortcut.
    """
    graph = _graph(module)
    if graph is None:
        return None
    layers = dict(module.named_modules())
    depths = _depths(graph)
    found = [(depths[node], _layer(node, layers)) for node in _sources(graph, tap, layers)]
    norms = [(depth, layer) for depth, layer in found if isinstance(layer, nn.BatchNorm2d)]
    return max(norms, key=lambda norm: norm[0], default=(0, None))[1]


def _graph(module: nn.Module) -> fx.Graph | None:
    if isinstance(module, fx.GraphModule):
        return module.graph
    try:
        return fx.Tracer().trace(module)
    except Exception:
        # Tracing runs the network's own code on stand-ins for tensors: anything may be raised.
        return None


def _depths(graph: fx.Graph) -> dict[fx.Node, int]:
    """Node -> number of nodes on the longest way to it."""
    depths: dict[fx.Node, int] = {}
    for node in graph.nodes:
        depths[node] = 1 + max((depths[source] for source in node.all_input_nodes), default=0)
    return depths


def _sources(graph: fx.Graph, tap: Tap, layers: dict[str, nn.Module]) -> Iterator[fx.Node]:
    """The nodes whose outputs, added up, are the value at `tap`."""
    ends = [node for node in graph.nodes if node.op == "call_module" and node.target == tap.path]
    waiting = [end for node in ends for end in ([node] if tap.end == "output" else node.all_input_nodes)]
    while waiting:
        node = waiting.pop()
        if _passes(node, layers):
            waiting += node.all_input_nodes
        else:
            yield node


def _passes(node: fx.Node, layers: dict[str, nn.Module]) -> bool:
    if node.op in ("call_function", "call_method"):
        return node.target in _ADDITIONS
    return isinstance(_layer(node, layers), _TRANSPARENT)


def _layer(node: fx.Node, layers: dict[str, nn.Module]) -> nn.Module | None:
    return layers.get(str(node.target)) if node.op == "call_module" else None
