"""What each node of a traced network does: its kind, the word that placement profiles use."""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

OTHER = "other"
"""Anything that stays in float: its inputs and outputs are quantized only where a neighbor wants it."""

_MODULES: dict[type[nn.Module], str] = {
    nn.Linear: "linear",
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.Sigmoid: "sigmoid",
    nn.Hardsigmoid: "hardsigmoid",
    nn.Hardswish: "hardswish",
    nn.MaxPool2d: "max_pool",
    nn.AvgPool2d: "average_pool",
    nn.Flatten: "flatten",
}
_FUNCTIONS: dict[Any, str] = {
    operator.add: "add",
    operator.iadd: "add",
    torch.add: "add",
    operator.mul: "multiply",
    operator.imul: "multiply",
    torch.mul: "multiply",
    torch.cat: "concat",
    torch.relu: "relu",
    F.relu: "relu",
    F.relu6: "relu6",
    F.hardswish: "hardswish",
    F.hardsigmoid: "hardsigmoid",
    torch.sigmoid: "sigmoid",
    F.max_pool2d: "max_pool",
    F.avg_pool2d: "average_pool",
    torch.flatten: "flatten",
    torch.reshape: "reshape",
}
_METHODS = {
    "relu": "relu",
    "sigmoid": "sigmoid",
    "flatten": "flatten",
    "view": "reshape",
    "reshape": "reshape",
}

_NONNEGATIVE = frozenset({"relu", "relu6", "sigmoid", "hardsigmoid"})
_KEEPS_SIGN = frozenset(
    {
        "add",
        "multiply",
        "concat",
        "max_pool",
        "average_pool",
        "global_average_pool",
        "flatten",
        "reshape",
        "slice",
        "pad",
    }
)
KINDS = frozenset({*_MODULES.values(), *_FUNCTIONS.values(), *_KEEPS_SIGN, "conv", "depthwise_conv", OTHER})


def kinds_of(graph_module: fx.GraphModule, float_modules: Collection[str] = ()) -> dict[fx.Node, str]:
    """Node -> kind. The nodes of `float_modules` (paths) are `other`: they are to stay in float."""
    modules = dict(graph_module.named_modules())
    numbers = _numbers(graph_module.graph)
    kinds = {}
    for node in graph_module.graph.nodes:
        is_float = node.op == "call_module" and _is_below(str(node.target), float_modules)
        kinds[node] = OTHER if is_float or node in numbers else _kind(node, modules)
    return kinds


def tensor_inputs(node: fx.Node, kind: str) -> list[fx.Node]:
    """The activations that an operation reads, in order."""
    if kind == "concat":
        values = node.args[0] if node.args else node.kwargs["tensors"]
        return [value for value in values if isinstance(value, fx.Node)]  # type: ignore[union-attr]
    count = 2 if kind in ("add", "multiply") else 1
    return [argument for argument in node.args[:count] if isinstance(argument, fx.Node)]


def nonnegative_nodes(kinds: dict[fx.Node, str]) -> set[fx.Node]:
    """The nodes whose value cannot be below zero, whatever the input."""
    found: set[fx.Node] = set()
    for node, kind in kinds.items():
        inputs = tensor_inputs(node, kind) if kind in _KEEPS_SIGN else []
        if kind in _NONNEGATIVE or (inputs and all(value in found for value in inputs)):
            found.add(node)
    return found


def _is_below(path: str, folders: Collection[str]) -> bool:
    return any(path == folder or path.startswith(f"{folder}.") for folder in folders)


def _numbers(graph: fx.Graph) -> set[fx.Node]:
    """Nodes that compute sizes, not tensors (`x.size(0) * 2` is no multiplication of activations)."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        reads_size = node.op == "call_method" and node.target in ("size", "dim", "numel")
        reads_shape = node.op == "call_function" and node.target is getattr and node.args[1] == "shape"
        inputs = node.all_input_nodes
        if reads_size or reads_shape or (inputs and all(value in found for value in inputs)):
            found.add(node)
    return found


def _kind(node: fx.Node, modules: dict[str, nn.Module]) -> str:
    if node.op == "call_module":
        return _module_kind(modules[str(node.target)])
    if node.op == "call_function":
        return _function_kind(node)
    if node.op == "call_method":
        return _METHODS.get(str(node.target), OTHER)
    return OTHER


def _module_kind(module: nn.Module) -> str:
    if isinstance(module, nn.Conv2d):
        is_depthwise = module.groups > 1 and module.groups == module.in_channels
        return "depthwise_conv" if is_depthwise else "conv"
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return "global_average_pool" if module.output_size in (1, (1, 1)) else OTHER
    for kind_of_module, kind in _MODULES.items():
        if isinstance(module, kind_of_module):
            return kind
    return OTHER


def _function_kind(node: fx.Node) -> str:
    target = node.target
    if target is operator.getitem:
        return "slice" if _is_slice(node.args[1]) else OTHER
    if target is F.pad:
        return "pad" if _is_zero_padding(node) else OTHER
    if target is F.adaptive_avg_pool2d:
        return "global_average_pool" if node.args[1] in (1, (1, 1)) else OTHER
    kind = _FUNCTIONS.get(target, OTHER)
    if kind in ("add", "multiply") and len(tensor_inputs(node, kind)) != 2:
        return OTHER
    return kind


def _is_slice(index: Any) -> bool:
    return isinstance(index, tuple) and all(isinstance(part, slice) for part in index)


def _is_zero_padding(node: fx.Node) -> bool:
    arguments = dict(zip(("input", "pad", "mode", "value"), node.args, strict=False)) | node.kwargs
    return bool(arguments.get("mode", "constant") == "constant" and not arguments.get("value"))
