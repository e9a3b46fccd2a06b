"""Rules about where quantizers stand: what TensorRT takes, and then computes in another type or slowly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from onnx import TensorProto

from edgekd.backends.tensorrt.finding import ACCEPTED, Finding
from edgekd.backends.tensorrt.graph_scope import DQ, Q, Scope, codes_of, input_of, name_of, number_of

MATRIX = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_ACTIVATIONS = frozenset({"Relu", "Clip", "HardSwish", "HardSigmoid", "Sigmoid", "LeakyRelu", "Elu", "Tanh"})


def per_channel(node: Any, scope: Scope) -> Iterator[Finding]:
    scale = scope.array(input_of(node, 1)) if node.op_type in (Q, DQ) else None
    if scale is None or scale.size <= 1:
        return
    if not scope.is_constant(node.input[0]):
        if node.op_type == Q:
            what, why = "an activation with a scale per channel", "int8 kernels take one scale per tensor"
            yield Finding(
                ACCEPTED, "per-channel", name_of(node), what, why, "quantize activations per tensor"
            )
        return
    if node.op_type == DQ and scale.ndim == 1:
        yield from weight_axis(node, scope)


def weight_axis(node: Any, scope: Scope) -> Iterator[Finding]:
    axis = number_of(node, "axis", 1)
    for reader in scope.readers.get(node.output[0], []):
        rank = len(scope.shapes.get(node.input[0], ()))
        wanted = _output_axis(reader, rank)
        if input_of(reader, 1) == node.output[0] and wanted is not None and rank and axis % rank != wanted:
            yield Finding(
                ACCEPTED,
                "weight-axis",
                name_of(node),
                f"the weight of {name_of(reader)} has its scales along axis {axis}",
                f"its output channels are axis {wanted}; only those can be scaled behind the products",
                f"quantize weights along axis {wanted}",
            )


def _output_axis(reader: Any, rank: int) -> int | None:
    if reader.op_type == "Gemm":
        return 0 if number_of(reader, "transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": rank - 1}.get(reader.op_type)


def half_quantized(node: Any, scope: Scope) -> Iterator[Finding]:
    if node.op_type not in MATRIX or len(node.input) < 2:
        return
    activation, weight = (is_quantized(name, scope) for name in node.input[:2])
    weight_only = weight and not activation and codes_below(node.input[1], scope) != TensorProto.INT8
    is_float8 = activation and codes_below(node.input[0], scope) != TensorProto.INT8
    if activation == weight or weight_only or (is_float8 and not weight):
        return
    there, missing = ("weight", "activation") if weight else ("activation", "weight")
    what = f"the {there} of this {node.op_type} is quantized, its {missing} is not"
    yield Finding(
        ACCEPTED, "half-quantized", name_of(node), what, "it runs in float", f"quantize its {missing} too"
    )


def is_quantized(name: str, scope: Scope) -> bool:
    node = scope.makers.get(name)
    if node is not None and node.op_type in ("Transpose", "Reshape", "Flatten"):
        return is_quantized(node.input[0], scope)
    return node is not None and node.op_type == DQ


def codes_below(name: str, scope: Scope) -> int:
    node = scope.makers[name]
    return codes_of(node, scope) if node.op_type == DQ else codes_below(node.input[0], scope)


def quantized_bias(node: Any, scope: Scope) -> Iterator[Finding]:
    bias = input_of(node, 2)
    maker = scope.maker(bias, DQ) if node.op_type in MATRIX and bias else None
    if maker is not None and codes_of(maker, scope) != TensorProto.INT32:
        what, why = "a bias with few bits", "8 bits are too coarse for a sum of products"
        yield Finding(ACCEPTED, "bias", name_of(node), what, why, "keep biases in float")


def before_activation(node: Any, scope: Scope) -> Iterator[Finding]:
    """Conv -> Q/DQ -> ReLU: rounds twice and keeps the activation out of the kernel."""
    source = scope.makers.get(node.input[0]) if node.op_type == Q else None
    if source is None or source.op_type not in MATRIX | {"Add"}:
        return
    for pair in scope.readers.get(node.output[0], []):
        behind = scope.readers.get(pair.output[0], []) if pair.op_type == DQ else []
        if any(reader.op_type in _ACTIVATIONS for reader in behind):
            what = f"a quantizer between {source.op_type} and its activation"
            why = "they cannot become one kernel"
            yield Finding(ACCEPTED, "placement", name_of(node), what, why, "quantize behind the activation")


def skip(node: Any, scope: Scope) -> Iterator[Finding]:
    """A residual addition becomes part of its convolution only if its other input is int8."""
    if node.op_type != "Add" or len(node.input) != 2 or any(is_quantized(name, scope) for name in node.input):
        return
    makers = [scope.makers.get(name) for name in node.input]
    int8 = [maker for maker in makers if maker is not None and _is_int8(maker, scope)]
    if int8 and not any(scope.is_constant(name) for name in node.input):
        what, why = (
            "the skip input of this addition is in float",
            "the addition runs apart from its convolution",
        )
        yield Finding(ACCEPTED, "skip", name_of(node), what, why, "quantize the skip input of additions")


def _is_int8(node: Any, scope: Scope) -> bool:
    return node.op_type in MATRIX and all(is_quantized(name, scope) for name in node.input[:2])
