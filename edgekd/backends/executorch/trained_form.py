"""Our quantized graph in the words of ExecuTorch: the same steps, the same codes less 128."""

from __future__ import annotations

from operator import attrgetter

import torch
import torch.ao.quantization.fx._decomposed
from torch import fx

from edgekd.backends.executorch.writing import constant
from edgekd.backends.onnx import operators

_SHIFT = 128
_ATEN = torch.ops.aten
_ABSORBED = (
    _ATEN.relu.default,
    _ATEN.relu_.default,
    _ATEN.relu6.default,
    _ATEN.hardtanh.default,
    _ATEN.hardtanh_.default,
)
_QUANTIZERS = (torch.ops.edgekd.qdq.default, torch.ops.quantized_decomposed.quantize_per_tensor.default)


def rewrite(module: fx.GraphModule) -> None:
    """Replace `edgekd.qdq` and `edgekd.dq` by `quantized_decomposed` operators, in place.

    XNNPACK has int8 activations: a uint8 code c with the zero point z and the int8 code c - 128 with z - 128
    stand for the same number. Weights keep codes and steps. A bias lies on the grid step_input *
    step_weight, on which XNNPACK's exporter finds its int32 codes again. A layer whose result is not
    quantized (the last one) has no int8 kernel in XNNPACK: its weight becomes float32 with the same values.
    """
    for node in list(module.graph.nodes):
        if node.target is torch.ops.edgekd.qdq.default:
            _rewrite_activation(module.graph, node)
        elif node.target is torch.ops.edgekd.dq.default:
            _rewrite_constant(module, node)
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()


def _rewrite_activation(graph: fx.Graph, node: fx.Node) -> None:
    source, step, zero_point, low, high = node.args
    shift = _SHIFT if low == 0 else 0
    form = (step, zero_point - shift, low - shift, high - shift, torch.int8)  # type: ignore[operator]
    decomposed = torch.ops.quantized_decomposed
    with graph.inserting_before(node):
        codes = graph.call_function(decomposed.quantize_per_tensor.default, (source, *form))
        codes.meta = dict(node.meta)
    for reader in list(node.users):
        # One for each reader: the partitioner takes a DequantizeLinear only together with what reads it.
        with graph.inserting_before(reader):
            value = graph.call_function(decomposed.dequantize_per_tensor.default, (codes, *form))
            value.meta = dict(node.meta)
        reader.replace_input_with(node, value)
    graph.erase_node(node)


def _has_int8_result(weight: fx.Node) -> bool:
    """Whether the layer that reads a weight is quantized behind, at once or behind its activation."""
    (layer,) = weight.users
    result = layer
    while len(result.users) == 1:
        (result,) = result.users
        if result.target in _QUANTIZERS:
            return True
        if result.target not in _ABSORBED:
            return False
    return bool(result.users) and all(reader.target in _QUANTIZERS for reader in result.users)


def _rewrite_constant(module: fx.GraphModule, node: fx.Node) -> None:
    codes, step, _ = node.args
    assert isinstance(codes, fx.Node) and isinstance(step, fx.Node)
    values, steps = attrgetter(str(codes.target))(module), attrgetter(str(step.target))(module)
    with module.graph.inserting_before(node):
        if values.dtype == torch.int32 or not _has_int8_result(node):
            new = constant(module, operators.dq(values, steps, steps))
        else:
            zeros = constant(module, torch.zeros(len(steps), dtype=torch.int64))
            new = module.graph.call_function(
                torch.ops.quantized_decomposed.dequantize_per_channel.default,
                (codes, step, zeros, 0, -127, 127, torch.int8),
            )
    new.meta = dict(node.meta)
    node.replace_all_uses_with(new)
    module.graph.erase_node(node)
