"""Gives int8 values that are only moved or joined the same step before and behind, as XNNPACK wants it."""

from __future__ import annotations

from typing import Any

import torch
import torch.ao.quantization.fx._decomposed
from torch import fx

from edgekd.backends.executorch.writing import Writer

_ATEN = torch.ops.aten
_QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default
_DEQUANTIZE = torch.ops.quantized_decomposed.dequantize_per_tensor.default
_MOVING = frozenset(
    {
        _ATEN.view.default,
        _ATEN.reshape.default,
        _ATEN.permute.default,
        _ATEN.transpose.int,
        _ATEN.slice.Tensor,
        _ATEN.max_pool2d.default,
        _ATEN.clone.default,
    }
)


def match_steps(module: fx.GraphModule) -> None:
    """Change `module` in place; what it computes stays the same, code by code.

    Moved codes are quantized with their own step first and with the wanted one afterwards; those that are
    joined get the step of the result before. XNNPACK takes operations whose steps differ into its delegate,
    and refuses the whole program when it is opened.
    """
    for node in list(module.graph.nodes):
        wanted = _step_behind(node)
        if wanted is None:
            continue
        if node.target is _ATEN.cat.default:
            _join(module, node, wanted)
        elif node.target in _MOVING:
            _move(module, node, wanted)
    module.graph.lint()
    module.recompile()


def _step_behind(node: fx.Node) -> list[Any] | None:
    """Step, zero point and so on of the one QuantizeLinear that reads a node."""
    reader = next(iter(node.users), None)
    if len(node.users) != 1 or reader is None or reader.target is not _QUANTIZE:
        return None
    return list(reader.args[1:])


def _join(module: fx.GraphModule, node: fx.Node, wanted: list[Any]) -> None:
    parts: list[fx.Node] = list(node.args[0])  # type: ignore[arg-type]
    writer = Writer(module, node)
    joined = [
        part
        if part.target is _DEQUANTIZE and list(part.args[1:]) == wanted
        else writer.call(_DEQUANTIZE, writer.call(_QUANTIZE, part, *wanted), *wanted)
        for part in parts
    ]
    node.args = (joined, *node.args[1:])


def _move(module: fx.GraphModule, node: fx.Node, wanted: list[Any]) -> None:
    source = node.args[0]
    if not isinstance(source, fx.Node) or source.target is not _DEQUANTIZE or list(source.args[1:]) == wanted:
        return
    (reader,) = node.users
    form, writer = source.args[1:], Writer(module, reader)
    same = writer.call(_DEQUANTIZE, writer.call(_QUANTIZE, node, *form), *form)
    reader.replace_input_with(node, same)
