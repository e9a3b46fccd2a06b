"""Operations that XNNPACK lacks, written with those that it has: the same numbers, to float32's rounding."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.ao.quantization.fx._decomposed
from torch import fx

from edgekd.backends.executorch.writing import Writer, refresh, shape_of

_ATEN = torch.ops.aten
_QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default
_DEQUANTIZE = torch.ops.quantized_decomposed.dequantize_per_tensor.default

Rule = Callable[[Writer, fx.Node], fx.Node | None]
"""What stands for a node; None: the node stays as it is."""


def rewrite(module: fx.GraphModule) -> None:
    """Replace what XNNPACK lacks, in place.

    `module` is functional (no operation writes into its input) and its nodes know the shapes of their
    results, as after `ExportedProgram.run_decompositions({})`. What no rule takes is left to the partitioner.
    """
    for node in list(module.graph.nodes):
        if node.target in _SPLITS:
            _replace_split(module, node)
            continue
        rule = _constant if _is_constant(node) else RULES.get(node.target)
        new = rule(Writer(module, node), node) if rule else None
        if new is not None:
            node.replace_all_uses_with(new)
        elif node.op == "call_function":
            refresh(node)  # its input may lie otherwise in memory than before
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()


def _argument(node: fx.Node, position: int, default: Any = None) -> Any:
    """An argument by its place in the operator's schema, however it was given."""
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    if position >= len(names):
        return default
    return node.args[position] if position < len(node.args) else node.kwargs.get(names[position], default)


def _axis(node: fx.Node, position: int, rank: int) -> int:
    return int(_argument(node, position, 0)) % rank


def _is_constant(node: fx.Node) -> bool:
    """Whether it makes the same tensor each time, as `torch.ones` in a network does."""
    made = isinstance(node.target, torch._ops.OpOverload) and not node.all_input_nodes
    return made and torch.Tag.nondeterministic_seeded not in node.target.tags  # type: ignore[union-attr]


def _constant(writer: Writer, node: fx.Node) -> fx.Node:
    return writer.constant(node.target(*node.args, **node.kwargs))  # type: ignore[operator]


# --- choosing and moving values -----------------------------------------------------------------------------


def _replace_split(module: fx.GraphModule, node: fx.Node) -> None:
    """Each part of a split is a slice of its own."""
    source, writer, start = _argument(node, 0), Writer(module, node), 0
    drops_axis = node.target is _ATEN.unbind.int
    axis = _axis(node, 1 if drops_axis else 2, len(shape_of(source)))
    parts = []
    for value in node.meta["val"]:
        end = start + (1 if drops_axis else int(value.shape[axis]))
        parts.append(writer.view(_sliced(writer, source, axis, start, end), list(value.shape)))
        start = end
    for reader in list(node.users):
        reader.replace_all_uses_with(parts[int(reader.args[1])])  # type: ignore[arg-type]


def _sliced(writer: Writer, source: fx.Node, axis: int, start: int, end: int) -> fx.Node:
    """`source[start:end]` along `axis`; of int8 codes, where `source` is their value.

    XNNPACK slices codes only between a DequantizeLinear of its own and a QuantizeLinear of the same step.
    """
    if source.target is not _DEQUANTIZE:
        return writer.call(_ATEN.slice.Tensor, source, axis, start, end)
    codes, *form = source.args
    part = writer.call(_ATEN.slice.Tensor, writer.call(_DEQUANTIZE, codes, *form), axis, start, end)
    return writer.call(_DEQUANTIZE, writer.call(_QUANTIZE, part, *form), *form)


def _select(writer: Writer, node: fx.Node) -> fx.Node:
    source = _argument(node, 0)
    axis = _axis(node, 1, len(shape_of(source)))
    index = int(_argument(node, 2)) % shape_of(source)[axis]
    return writer.view(_sliced(writer, source, axis, index, index + 1), shape_of(node))


def _view(writer: Writer, node: fx.Node) -> fx.Node:
    """Written anew also where it was a view before: its input may be turned another way now."""
    return writer.view(_argument(node, 0), shape_of(node))


def _expand(writer: Writer, node: fx.Node) -> fx.Node | None:
    """Nothing, where no axis grows; else a product with ones."""
    source, wanted = _argument(node, 0), shape_of(node)
    value = writer.view(source, [1] * (len(wanted) - len(shape_of(source))) + shape_of(source))
    if shape_of(value) == wanted:
        return value
    return writer.call(_ATEN.mul.Tensor, value, writer.constant(torch.ones(wanted)))


# --- arithmetic ---------------------------------------------------------------------------------------------


def _hardsigmoid(writer: Writer, node: fx.Node) -> fx.Node:
    source = _argument(node, 0)
    shifted = writer.call(_ATEN.add.Tensor, source, writer.number(3, source))
    clamped = writer.call(_ATEN.hardtanh.default, shifted, 0.0, 6.0)
    return writer.call(_ATEN.div.Tensor, clamped, writer.number(6, source))


def _with_number(target: Callable[..., Any]) -> Rule:
    """`x + 2` and the like: the number becomes a constant."""

    def rule(writer: Writer, node: fx.Node) -> fx.Node | None:
        value, number = _argument(node, 0), _argument(node, 1)
        if not isinstance(number, (int, float)) or _argument(node, 2, 1) != 1:
            return None
        return writer.call(target, value, writer.number(number, value))

    return rule


def _reversed_difference(writer: Writer, node: fx.Node) -> fx.Node | None:
    value, number = _argument(node, 0), _argument(node, 1)
    if not isinstance(number, (int, float)) or _argument(node, 2, 1) != 1:
        return None
    return writer.call(_ATEN.sub.Tensor, writer.number(number, value), value)


def _power(writer: Writer, node: fx.Node) -> fx.Node | None:
    value, exponent = _argument(node, 0), _argument(node, 1)
    if exponent == 2:
        return writer.call(_ATEN.mul.Tensor, value, value)
    return writer.call(_ATEN.sqrt.default, value) if exponent == 0.5 else None


def _mean(writer: Writer, node: fx.Node) -> fx.Node | None:
    return _reduced(writer, node, is_mean=True)


def _sum(writer: Writer, node: fx.Node) -> fx.Node | None:
    return _reduced(writer, node, is_mean=False)


def _reduced(writer: Writer, node: fx.Node, *, is_mean: bool) -> fx.Node | None:
    """Over rows and columns XNNPACK's own pooling; over other axes a product with a column of weights."""
    source = _argument(node, 0)
    rank = len(shape_of(source))
    axes = sorted(int(axis) % rank for axis in _argument(node, 1) or range(rank))
    if _argument(node, 3) is not None:
        return None
    if is_mean and rank == 4 and axes == [2, 3]:
        return writer.view(writer.call(_ATEN.mean.dim, source, axes, True), shape_of(node))
    kept = [axis for axis in range(rank) if axis not in axes]
    moved = source
    if [*kept, *axes] != list(range(rank)):
        moved = writer.call(_ATEN.permute.default, source, [*kept, *axes])
    count = math.prod(shape_of(source)[axis] for axis in axes)
    rows = writer.view(moved, [math.prod(shape_of(source)) // count, count])
    return writer.view(_weighted(writer, rows, 1 / count if is_mean else 1.0), shape_of(node))


def _weighted(writer: Writer, value: fx.Node, weight: float) -> fx.Node:
    """`[..., n]` to `[..., 1]`: the sum times `weight`, by XNNPACK's matrix product."""
    column = writer.constant(torch.full((1, shape_of(value)[-1]), weight))
    return writer.call(_ATEN.linear.default, value, column)


def _layer_norm(writer: Writer, node: fx.Node) -> fx.Node:
    source, normalized = _argument(node, 0), list(_argument(node, 1))
    weight, bias, epsilon = (_argument(node, position) for position in (2, 3, 4))
    shape, count = shape_of(source), math.prod(normalized)
    rows = writer.view(source, [math.prod(shape) // count, count])
    centered = writer.call(_ATEN.sub.Tensor, rows, _weighted(writer, rows, 1 / count))
    variance = _weighted(writer, writer.call(_ATEN.mul.Tensor, centered, centered), 1 / count)
    epsilon = writer.number(1e-5 if epsilon is None else epsilon, variance)
    scale = writer.call(_ATEN.rsqrt.default, writer.call(_ATEN.add.Tensor, variance, epsilon))
    value = writer.view(writer.call(_ATEN.mul.Tensor, centered, scale), shape)
    if weight is not None:
        value = writer.call(_ATEN.mul.Tensor, value, weight)
    return value if bias is None else writer.call(_ATEN.add.Tensor, value, bias)


# --- attention ----------------------------------------------------------------------------------------------


def _attention(writer: Writer, node: fx.Node) -> fx.Node | None:
    """softmax(q k^T * scale + mask) v, with q `[..., T, d]`, k and v `[..., S, d]`."""
    query, key, value = (_argument(node, position) for position in (0, 1, 2))
    mask, dropout, causal = _argument(node, 3), _argument(node, 4, 0.0), _argument(node, 5, False)
    scale, grouped = _argument(node, 6), _argument(node, 7, False)
    is_float_mask = mask is None or mask.meta["val"].dtype == torch.float32
    if dropout or causal or grouped or not is_float_mask:
        return None
    depth = shape_of(query)[-1]
    factor = writer.number(1 / math.sqrt(depth) if scale is None else scale, query)
    turned = writer.call(_ATEN.transpose.int, key, -2, -1)
    scores = _product(writer, writer.call(_ATEN.mul.Tensor, query, factor), turned)
    if mask is not None:
        scores = writer.call(_ATEN.add.Tensor, scores, mask)
    return _product(writer, writer.call(_ATEN.softmax.int, scores, -1), value)


def _matmul(writer: Writer, node: fx.Node) -> fx.Node | None:
    left, right = _argument(node, 0), _argument(node, 1)
    same = len(shape_of(left)) >= 3 and shape_of(left)[:-2] == shape_of(right)[:-2]
    return _product(writer, left, right) if same else None


def _product(writer: Writer, left: fx.Node, right: fx.Node) -> fx.Node:
    """`[..., n, k]` times `[..., k, m]`: XNNPACK multiplies batches of one axis."""
    *batch, height, depth = shape_of(left)
    width, count = shape_of(right)[-1], math.prod(batch)
    lefts, rights = writer.view(left, [count, height, depth]), writer.view(right, [count, depth, width])
    return writer.view(writer.call(_ATEN.bmm.default, lefts, rights), [*batch, height, width])


_SPLITS = frozenset({_ATEN.split.Tensor, _ATEN.split_with_sizes.default, _ATEN.unbind.int})

RULES: Mapping[Any, Rule] = {
    _ATEN.select.int: _select,
    _ATEN.view.default: _view,
    _ATEN.squeeze.dim: _view,
    _ATEN.squeeze.dims: _view,
    _ATEN.squeeze.default: _view,
    _ATEN.unsqueeze.default: _view,
    _ATEN.expand.default: _expand,
    _ATEN.hardsigmoid.default: _hardsigmoid,
    _ATEN.add.Tensor: _with_number(_ATEN.add.Tensor),
    _ATEN.add.Scalar: _with_number(_ATEN.add.Tensor),
    _ATEN.sub.Tensor: _with_number(_ATEN.sub.Tensor),
    _ATEN.sub.Scalar: _with_number(_ATEN.sub.Tensor),
    _ATEN.mul.Tensor: _with_number(_ATEN.mul.Tensor),
    _ATEN.mul.Scalar: _with_number(_ATEN.mul.Tensor),
    _ATEN.div.Tensor: _with_number(_ATEN.div.Tensor),
    _ATEN.div.Scalar: _with_number(_ATEN.div.Tensor),
    _ATEN.rsub.Scalar: _reversed_difference,
    _ATEN.pow.Tensor_Scalar: _power,
    _ATEN.mean.dim: _mean,
    _ATEN.sum.dim_IntList: _sum,
    _ATEN.layer_norm.default: _layer_norm,
    _ATEN.scaled_dot_product_attention.default: _attention,
    _ATEN.matmul.default: _matmul,
}
