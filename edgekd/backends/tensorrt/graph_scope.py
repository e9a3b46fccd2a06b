"""A graph as the rules of the linter see it: who makes and reads each value, its type, shape and constant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

Q, DQ = "QuantizeLinear", "DequantizeLinear"


@dataclass
class Scope:
    """One graph, or the body of a function, with what it sees of the graphs around it."""

    nodes: list[Any]
    opset: int
    constants: dict[str, Any] = field(default_factory=dict)
    """Name -> `TensorProto`."""
    types: dict[str, int] = field(default_factory=dict)
    """Name -> element type, where known."""
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Name -> shape; -1 is a dynamic size."""
    functions: frozenset[tuple[str, str]] = frozenset()
    makers: dict[str, Any] = field(default_factory=dict)
    readers: dict[str, list[Any]] = field(default_factory=dict)

    def array(self, name: str) -> npt.NDArray[Any] | None:
        """Of a constant, else None."""
        tensor = self.constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def maker(self, name: str, op: str) -> Any:
        """The node that makes the value, if it is such an operator."""
        node = self.makers.get(name)
        return node if node is not None and node.op_type == op else None

    def is_constant(self, name: str) -> bool:
        """Whether a value is a constant, or made of one by quantizing, moving or casting it."""
        node = self.makers.get(name)
        if name in self.constants or node is None:
            return name in self.constants
        moves = node.op_type in (Q, DQ, "Identity", "Transpose", "Reshape", "Cast")
        return moves and self.is_constant(node.input[0])


def scopes_of(model: onnx.ModelProto) -> Iterator[Scope]:
    opsets = {one.domain: one.version for one in model.opset_import}
    functions = frozenset((one.domain, one.name) for one in model.functions)
    outer = Scope([], opsets.get("", opsets.get("ai.onnx", 1)), functions=functions)
    yield from _below(_inferred(model).graph, outer)
    for function in model.functions:
        own = {one.domain: one.version for one in function.opset_import}
        yield _linked(replace(outer, nodes=list(function.node), opset=own.get("", outer.opset)))


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    """With the types and shapes of inner values, as far as ONNX can tell."""
    try:
        return onnx.shape_inference.infer_shapes(model)
    except (
        Exception
    ):  # a hint that is missing silences a rule, nothing more; onnx raises what its parser does
        return model


def _below(graph: Any, outer: Scope) -> Iterator[Scope]:
    scope = _linked(
        replace(
            outer,
            nodes=list(graph.node),
            constants={**outer.constants, **{tensor.name: tensor for tensor in graph.initializer}},
            types={**outer.types, **{tensor.name: tensor.data_type for tensor in graph.initializer}},
            shapes={**outer.shapes, **{tensor.name: tuple(tensor.dims) for tensor in graph.initializer}},
        )
    )
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.HasField("tensor_type"):
            _note_type(scope, value.name, value.type.tensor_type)
    yield scope
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _below(inner, scope)


def _note_type(scope: Scope, name: str, tensor: Any) -> None:
    if tensor.elem_type:
        scope.types.setdefault(name, tensor.elem_type)
    if tensor.HasField("shape"):
        dims = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim)
        scope.shapes.setdefault(name, dims)


def _linked(scope: Scope) -> Scope:
    """With makers and readers of its own, and the constants that nodes hold."""
    scope = replace(scope, constants=dict(scope.constants), makers={}, readers={})
    for node in scope.nodes:
        scope.makers.update(dict.fromkeys(node.output, node))
        for name in node.input:
            scope.readers.setdefault(name, []).append(node)
        tensor = next((a.t for a in node.attribute if a.name == "value" and a.HasField("t")), None)
        if node.op_type == "Constant" and tensor is not None:
            scope.constants[node.output[0]] = tensor
            scope.types[node.output[0]] = tensor.data_type
        if node.op_type == "Identity" and node.input[0] in scope.constants:
            scope.constants[node.output[0]] = scope.constants[node.input[0]]
    return scope


def number_of(node: Any, name: str, default: int) -> int:
    return int(next((a.i for a in node.attribute if a.name == name), default))


def name_of(node: Any) -> str:
    return str(node.name or (node.output[0] if node.output else node.op_type))


def type_name(kind: int) -> str:
    return (
        str(TensorProto.DataType.Name(kind)).lower() if kind in TensorProto.DataType.values() else str(kind)
    )


def input_of(node: Any, number: int) -> str:
    return str(node.input[number]) if len(node.input) > number else ""


def codes_of(node: Any, scope: Scope) -> int:
    """The element type of the codes; uint8 is what ONNX says where a node does not."""
    if node.op_type == DQ and node.input[0] in scope.types:
        return scope.types[node.input[0]]
    if input_of(node, 2):
        return scope.types.get(node.input[2], TensorProto.UINT8)
    return number_of(node, "output_dtype", 0) or TensorProto.UINT8
