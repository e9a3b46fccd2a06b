"""Writes a captured torch program as ONNX without torch's exporter, where it has only operations known here.

torch's exporter takes 3 to 7 s for a network that this writes in a tenth of a second; the operations here are
those of small convolutional networks, and everything else goes through the exporter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import onnx_ir as ir
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

_END = np.iinfo(np.int64).max


class UnsupportedError(Exception):
    """An operation, or a form of one, that is not known here."""


def write(program: ExportedProgram, opset: int, ir_version: int) -> ir.Model:
    """The ONNX model of a program with one input and one output. Raises `UnsupportedError`."""
    return _Writer(program).model(opset, ir_version)


class _Writer:
    """Nodes and initializers collected so far; every handler below adds to them and returns a value."""

    def __init__(self, program: ExportedProgram) -> None:
        self.program = program
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []
        self.inputs: list[ir.Value] = []
        self.values: dict[fx.Node, ir.Value] = {}

    def model(self, opset: int, ir_version: int) -> ir.Model:
        outputs: list[ir.Value] = []
        self._read_inputs()
        for node in self.program.graph.nodes:
            if node.op == "call_function":
                self.values[node] = self._translated(node)
            elif node.op == "output":
                outputs = [self.values[value] for value in node.args[0]]
        if len(self.inputs) != 1 or len(outputs) != 1 or outputs[0].producer() is None:
            raise UnsupportedError("not one input and one output")
        outputs[0].shape, outputs[0].type = self._shape(self._last()), ir.TensorType(ir.DataType.FLOAT)
        graph = ir.Graph(
            self.inputs,
            outputs,
            nodes=self.nodes,
            initializers=self.initializers,
            opset_imports={"": opset},
            name="graph",
        )
        return ir.Model(graph, ir_version=ir_version)

    def add(self, operation: str, inputs: Sequence[ir.Value | None], **attributes: Any) -> ir.Value:
        node = ir.node(operation, inputs, attributes)
        self.nodes.append(node)
        return node.outputs[0]

    def constant(self, name: str, array: np.ndarray[Any, Any]) -> ir.Value:
        tensor = ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=name)
        kind = ir.TensorType(tensor.dtype)
        value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape), type=kind)
        self.initializers.append(value)
        return value

    def _read_inputs(self) -> None:
        placeholders = [node for node in self.program.graph.nodes if node.op == "placeholder"]
        tensors = {**self.program.state_dict, **self.program.constants}
        for node, spec in zip(placeholders, self.program.graph_signature.input_specs, strict=True):
            if spec.kind is InputKind.USER_INPUT:
                float_type = ir.TensorType(ir.DataType.FLOAT)
                value = ir.Value(name=node.name, shape=self._shape(node), type=float_type)
                self.inputs.append(value)
                self.values[node] = value
            elif node.users:
                name = str(spec.target)
                self.values[node] = self.constant(name, tensors[name].detach().cpu().numpy())

    def _translated(self, node: fx.Node) -> ir.Value:
        handler = _HANDLERS.get(str(node.target))
        if handler is None:
            raise UnsupportedError(str(node.target))
        if str(node.target).split(".")[-2].endswith("_") and len(node.args[0].users) > 1:  # type: ignore[union-attr]
            raise UnsupportedError(f"{node.target} changes a value that others read")
        arguments = _arguments(node)
        return handler(self, node, **arguments)

    def _last(self) -> fx.Node:
        return cast(fx.Node, self.program.graph.output_node().all_input_nodes[0])

    @staticmethod
    def _shape(node: fx.Node) -> ir.Shape:
        return ir.Shape([size if isinstance(size, int) else str(size) for size in node.meta["val"].shape])


def _arguments(node: fx.Node) -> dict[str, Any]:
    """The call's arguments by their names in the operator's schema, defaults filled in."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    names = [argument.name for argument in schema]
    defaults = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    return defaults | dict(zip(names, node.args, strict=False)) | dict(node.kwargs)


def _rank(node: fx.Node) -> int:
    return int(node.meta["val"].ndim)


def _pair(value: int | Sequence[int]) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * 2 if len(values) == 1 else values


def _require(condition: bool, node: fx.Node) -> None:
    if not condition:
        raise UnsupportedError(f"this form of {node.target}")


_Handler = Callable[..., ir.Value]


def _unary(operation: str, **attributes: Any) -> _Handler:
    def handler(w: _Writer, node: fx.Node, **arguments: Any) -> ir.Value:
        source = next(iter(arguments.values()))
        return w.add(operation, [w.values[source]], **attributes)

    return handler


def _binary(operation: str) -> _Handler:
    def handler(w: _Writer, node: fx.Node, *, self: Any, other: Any, alpha: Any = 1) -> ir.Value:
        _require(isinstance(self, fx.Node) and isinstance(other, fx.Node) and alpha == 1, node)
        return w.add(operation, [w.values[self], w.values[other]])

    return handler


def _conv2d(
    w: _Writer,
    node: fx.Node,
    *,
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> ir.Value:
    _require(not isinstance(padding, str), node)
    inputs = [w.values[value] for value in (input, weight, bias) if value is not None]
    pads = _pair(padding) * 2
    return w.add("Conv", inputs, strides=_pair(stride), pads=pads, dilations=_pair(dilation), group=groups)


def _linear(w: _Writer, node: fx.Node, *, input: Any, weight: Any, bias: Any) -> ir.Value:
    _require(_rank(input) == 2, node)
    return w.add("Gemm", [w.values[value] for value in (input, weight, bias) if value is not None], transB=1)


def _batch_norm(
    w: _Writer,
    node: fx.Node,
    *,
    input: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    training: bool,
    eps: float,
    **_: Any,
) -> ir.Value:
    parts = (input, weight, bias, running_mean, running_var)
    _require(not training and all(part is not None for part in parts), node)
    return w.add("BatchNormalization", [w.values[part] for part in parts], epsilon=float(eps))


def _clip(w: _Writer, node: fx.Node, low: float, high: float, source: Any) -> ir.Value:
    lowest = w.constant(f"{node.name}.low", np.array(low, np.float32))
    highest = w.constant(f"{node.name}.high", np.array(high, np.float32))
    return w.add("Clip", [w.values[source], lowest, highest])


def _hardtanh(w: _Writer, node: fx.Node, *, self: Any, min_val: float, max_val: float) -> ir.Value:
    return _clip(w, node, min_val, max_val, self)


def _relu6(w: _Writer, node: fx.Node, *, self: Any) -> ir.Value:
    return _clip(w, node, 0.0, 6.0, self)


def _silu(w: _Writer, node: fx.Node, *, self: Any) -> ir.Value:
    return w.add("Mul", [w.values[self], w.add("Sigmoid", [w.values[self]])])


def _adaptive_pool(w: _Writer, node: fx.Node, *, self: Any, output_size: Any) -> ir.Value:
    _require(list(output_size) == [1, 1] and _rank(self) == 4, node)
    return w.add("GlobalAveragePool", [w.values[self]])


def _mean(w: _Writer, node: fx.Node, *, self: Any, dim: Any, keepdim: bool, dtype: Any) -> ir.Value:
    _require(_rank(self) == 4 and dim is not None and sorted(d % 4 for d in dim) == [2, 3], node)
    pooled = w.add("GlobalAveragePool", [w.values[self]])
    return pooled if keepdim else w.add("Flatten", [pooled], axis=1)


def _max_pool(
    w: _Writer,
    node: fx.Node,
    *,
    self: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
) -> ir.Value:
    _require(not ceil_mode, node)
    window = _window(kernel_size, stride, padding)
    return w.add("MaxPool", [w.values[self]], **window, dilations=_pair(dilation))


def _average_pool(
    w: _Writer,
    node: fx.Node,
    *,
    self: Any,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: Any,
) -> ir.Value:
    _require(not ceil_mode and divisor_override is None, node)
    window = _window(kernel_size, stride, padding)
    return w.add("AveragePool", [w.values[self]], **window, count_include_pad=int(count_include_pad))


def _window(kernel_size: Any, stride: Any, padding: Any) -> dict[str, list[int]]:
    strides = _pair(stride or kernel_size)
    return {"kernel_shape": _pair(kernel_size), "strides": strides, "pads": _pair(padding) * 2}


def _flatten(w: _Writer, node: fx.Node, *, self: Any, start_dim: int, end_dim: int) -> ir.Value:
    _require(start_dim == 1 and end_dim in (-1, _rank(self) - 1), node)
    return w.add("Flatten", [w.values[self]], axis=1)


def _dropout(w: _Writer, node: fx.Node, *, input: Any, p: float, train: bool) -> ir.Value:
    _require(not train, node)
    return w.values[input]


def _slice(w: _Writer, node: fx.Node, *, self: Any, dim: int, start: Any, end: Any, step: Any) -> ir.Value:
    start, end = start or 0, _END if end is None else end
    if dim == 0 and (start, end, step) == (0, _END, 1):
        return w.values[self]
    _require(dim != 0 and all(isinstance(number, int) for number in (start, end, step)), node)
    if (start, step) == (0, 1) and end == _END:
        return w.values[self]
    parts = (("start", start), ("end", end), ("axis", dim), ("step", step))
    constants = [w.constant(f"{node.name}.{name}", np.array([number], np.int64)) for name, number in parts]
    return w.add("Slice", [w.values[self], *constants])


def _pad(w: _Writer, node: fx.Node, *, self: Any, pad: Any, mode: str, value: Any) -> ir.Value:
    _require(mode == "constant" and all(isinstance(number, int) and number >= 0 for number in pad), node)
    # torch lists (before, after) from the last axis on; ONNX all befores, then all afters, from the first.
    before, after = ([0] * _rank(self) for _ in range(2))
    for position in range(len(pad) // 2):
        before[-1 - position], after[-1 - position] = pad[2 * position], pad[2 * position + 1]
    amounts = w.constant(f"{node.name}.amounts", np.array(before + after, np.int64))
    filling = w.constant(f"{node.name}.value", np.array(value or 0.0, np.float32))
    return w.add("Pad", [w.values[self], amounts, filling], mode="constant")


def _cat(w: _Writer, node: fx.Node, *, tensors: Any, dim: int) -> ir.Value:
    return w.add("Concat", [w.values[tensor] for tensor in tensors], axis=dim)


def _qdq(w: _Writer, node: fx.Node, *, x: Any, step: float, zero_point: int, low: int, high: int) -> ir.Value:
    _require((low, high) in ((0, 255), (-128, 127)), node)
    scale = w.constant(f"{node.name}.step", np.array(step, np.float32))
    zero = w.constant(f"{node.name}.zero_point", np.array(zero_point, np.int8 if low < 0 else np.uint8))
    return w.add("DequantizeLinear", [w.add("QuantizeLinear", [w.values[x], scale, zero]), scale, zero])


def _dq(w: _Writer, node: fx.Node, *, codes: Any, step: Any, zero_point: Any) -> ir.Value:
    return w.add("DequantizeLinear", [w.values[value] for value in (codes, step, zero_point)], axis=0)


_HANDLERS: dict[str, _Handler] = {
    "aten.conv2d.default": _conv2d,
    "aten.linear.default": _linear,
    "aten.batch_norm.default": _batch_norm,
    "aten.relu.default": _unary("Relu"),
    "aten.relu_.default": _unary("Relu"),
    "aten.relu6.default": _relu6,
    "aten.hardtanh.default": _hardtanh,
    "aten.hardtanh_.default": _hardtanh,
    "aten.hardswish.default": _unary("HardSwish"),
    "aten.hardswish_.default": _unary("HardSwish"),
    "aten.hardsigmoid.default": _unary("HardSigmoid", alpha=1 / 6, beta=0.5),
    "aten.hardsigmoid_.default": _unary("HardSigmoid", alpha=1 / 6, beta=0.5),
    "aten.sigmoid.default": _unary("Sigmoid"),
    "aten.silu.default": _silu,
    "aten.silu_.default": _silu,
    "aten.add.Tensor": _binary("Add"),
    "aten.add_.Tensor": _binary("Add"),
    "aten.mul.Tensor": _binary("Mul"),
    "aten.mul_.Tensor": _binary("Mul"),
    "aten.adaptive_avg_pool2d.default": _adaptive_pool,
    "aten.mean.dim": _mean,
    "aten.max_pool2d.default": _max_pool,
    "aten.avg_pool2d.default": _average_pool,
    "aten.flatten.using_ints": _flatten,
    "aten.dropout.default": _dropout,
    "aten.slice.Tensor": _slice,
    "aten.pad.default": _pad,
    "aten.cat.default": _cat,
    "edgekd.qdq.default": _qdq,
    "edgekd.dq.default": _dq,
}
