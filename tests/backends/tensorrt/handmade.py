"""Small Q/DQ graphs written by hand, right ones and wrong ones, each a question to TensorRT's parser.

`CASES` maps a name to a function that makes the graph. Every graph takes `input` float `[1, 4, 8, 8]` unless
its name says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
CHANNELS, OUT, SIZE = 4, 6, 8
_RNG_SEED = 3


class Builder:
    """Nodes and constants of one graph, appended in order."""

    def __init__(self, *, opset: int = 19, real: int = TensorProto.FLOAT) -> None:
        self.opset, self.real = opset, real
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.random = np.random.default_rng(_RNG_SEED)

    def constant(self, value: Any, kind: int | None = None) -> str:
        name = f"c{len(self.constants)}"
        kind = self.real if kind is None else kind
        array = np.asarray(value)
        if kind in _PLAIN:
            tensor = numpy_helper.from_array(np.array(array, _PLAIN[kind], order="C"), name)
        else:
            tensor = helper.make_tensor(name, kind, array.shape, array.ravel().tolist())
        self.constants.append(tensor)
        return name

    def node(self, op: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{op}_{len(self.nodes)}"
        outputs = [f"{name}:0"] if op != "DynamicQuantizeLinear" else [f"{name}:{i}" for i in range(3)]
        self.nodes.append(helper.make_node(op, inputs, outputs, name, **attributes))
        return outputs[0]

    def qdq(
        self,
        x: str,
        scale: Any = 0.05,
        zero: Any = 0,
        kind: int | None = TensorProto.INT8,
        **attributes: Any,
    ) -> str:
        """QuantizeLinear and DequantizeLinear; `kind` None: without a zero point."""
        ends = [self.constant(scale)]
        if kind is not None:
            ends.append(self.constant(np.broadcast_to(np.asarray(zero), np.shape(scale)), kind))
        quantized = self.node("QuantizeLinear", [x, *ends], **attributes)
        return self.node(
            "DequantizeLinear", [quantized, *ends], **{k: v for k, v in attributes.items() if k == "axis"}
        )

    def dq(
        self, codes: Array, scale: Any, zero: Any = 0, kind: int = TensorProto.INT8, **attributes: Any
    ) -> str:
        """A constant behind DequantizeLinear."""
        ends = [self.constant(scale), self.constant(np.broadcast_to(np.asarray(zero), np.shape(scale)), kind)]
        return self.node("DequantizeLinear", [self.constant(codes, kind), *ends], **attributes)

    def codes(self, *shape: int, low: int = -127, high: int = 128) -> Array:
        return self.random.integers(low, high, shape)

    def floats(self, *shape: int) -> Array:
        return self.random.normal(0, 0.2, shape).astype(np.float32)

    def weight(self, out: int = OUT, channels: int = CHANNELS, side: int = 3) -> str:
        """int8 `[out, channels, side, side]`, a scale per output channel."""
        return self.dq(self.codes(out, channels, side, side), np.full(out, 0.01), axis=0)

    def conv(self, x: str, weight: str, bias: str | None = None, **attributes: Any) -> str:
        bias = self.constant(np.zeros(attributes.pop("out", OUT))) if bias is None else bias
        return self.node("Conv", [x, weight, bias], **{"pads": [1, 1, 1, 1], **attributes})

    def model(
        self,
        output: str,
        *,
        output_kind: int | None = None,
        domains: tuple[str, ...] = (),
        inputs: tuple[Any, ...] = (),
        input_kind: int | None = None,
    ) -> onnx.ModelProto:
        source = helper.make_tensor_value_info("input", input_kind or self.real, [1, CHANNELS, SIZE, SIZE])
        end = helper.make_tensor_value_info(output, output_kind or self.real, None)
        graph = helper.make_graph(self.nodes, "graph", [source, *inputs], [end], self.constants)
        opsets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(d, 1) for d in domains)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


_PLAIN: dict[int, Any] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.INT8: np.int8,
    TensorProto.UINT8: np.uint8,
    TensorProto.INT16: np.int16,
    TensorProto.UINT16: np.uint16,
    TensorProto.INT32: np.int32,
    TensorProto.INT64: np.int64,
}

CASES: dict[str, Callable[[], onnx.ModelProto]] = {}


def case(function: Callable[[], onnx.ModelProto]) -> Callable[[], onnx.ModelProto]:
    CASES[function.__name__] = function
    return function


def _convolution(*, opset: int = 19, real: int = TensorProto.FLOAT, **activation: Any) -> onnx.ModelProto:
    """Conv and ReLU between two quantizers whose settings are `activation`."""
    b = Builder(opset=opset, real=real)
    x = b.node("Relu", [b.conv(b.qdq("input", **activation), b.weight())])
    return b.model(b.qdq(x, **activation))


# ---- Right ones ----------------------------------------------------------------------------------


@case
def convolution() -> onnx.ModelProto:
    return _convolution()


@case
def float_graph() -> onnx.ModelProto:
    b = Builder()
    return b.model(b.node("Relu", [b.conv("input", b.constant(b.floats(OUT, CHANNELS, 3, 3)))]))


@case
def half_graph() -> onnx.ModelProto:
    b = Builder(real=TensorProto.FLOAT16)
    return b.model(b.node("Relu", [b.conv("input", b.constant(b.floats(OUT, CHANNELS, 3, 3)))]))


@case
def half_scales() -> onnx.ModelProto:
    return _convolution(real=TensorProto.FLOAT16)


@case
def opset_13() -> onnx.ModelProto:
    return _convolution(opset=13)


@case
def opset_21() -> onnx.ModelProto:
    return _convolution(opset=21)


@case
def opset_23() -> onnx.ModelProto:
    return _convolution(opset=23)


@case
def opset_10_per_tensor() -> onnx.ModelProto:
    b = Builder(opset=10)
    weight = b.dq(b.codes(OUT, CHANNELS, 3, 3), 0.01)
    return b.model(b.conv(b.qdq("input"), weight))


@case
def weights_quantized_in_the_graph() -> onnx.ModelProto:
    b = Builder()
    weight = b.qdq(b.constant(b.floats(OUT, CHANNELS, 3, 3)), np.full(OUT, 0.01), axis=0)
    return b.model(b.conv(b.qdq("input"), weight))


@case
def weights_per_tensor() -> onnx.ModelProto:
    b = Builder()
    return b.model(b.conv(b.qdq("input"), b.dq(b.codes(OUT, CHANNELS, 3, 3), 0.01)))


@case
def depthwise() -> onnx.ModelProto:
    b = Builder()
    weight = b.weight(out=CHANNELS, channels=1)
    return b.model(b.conv(b.qdq("input"), weight, group=CHANNELS, out=CHANNELS))


@case
def transposed_convolution() -> onnx.ModelProto:
    b = Builder()
    weight = b.dq(b.codes(CHANNELS, OUT, 3, 3), np.full(OUT, 0.01), axis=1)
    return b.model(b.node("ConvTranspose", [b.qdq("input"), weight]))


@case
def residual() -> onnx.ModelProto:
    return _residual(skip=True)


def _residual(*, skip: bool) -> onnx.ModelProto:
    b = Builder()
    x = b.qdq("input")
    y = b.conv(x, b.weight(out=CHANNELS), out=CHANNELS)
    return b.model(b.node("Relu", [b.node("Add", [y, x if skip else "input"])]))


@case
def classifier_gemm() -> onnx.ModelProto:
    return _gemm(trans=1, axis=0)


def _gemm(*, trans: int, axis: int) -> onnx.ModelProto:
    b = Builder()
    flat = b.node("Flatten", [b.node("GlobalAveragePool", ["input"])])
    shape = (OUT, CHANNELS) if trans else (CHANNELS, OUT)
    weight = b.dq(b.codes(*shape), np.full(shape[axis], 0.01), axis=axis)
    return b.model(b.node("Gemm", [b.qdq(flat), weight, b.constant(np.zeros(OUT))], transB=trans))


@case
def classifier_matmul() -> onnx.ModelProto:
    b = Builder()
    flat = b.node("Flatten", [b.node("GlobalAveragePool", ["input"])])
    return b.model(b.node("MatMul", [b.qdq(flat), b.dq(b.codes(CHANNELS, OUT), np.full(OUT, 0.01), axis=1)]))


@case
def concatenation() -> onnx.ModelProto:
    b = Builder()
    x = b.qdq("input")
    y = b.qdq(b.conv(x, b.weight()))
    return b.model(b.qdq(b.node("Concat", [x, y], axis=1)))


@case
def scales_from_constant_nodes() -> onnx.ModelProto:
    b = Builder()
    ends = [
        b.node("Constant", [], value=numpy_helper.from_array(np.array(0.05, np.float32))),
        b.node("Constant", [], value=numpy_helper.from_array(np.array(0, np.int8))),
    ]
    x = b.node("DequantizeLinear", [b.node("QuantizeLinear", ["input", *ends]), *ends])
    return b.model(b.conv(x, b.weight()))


@case
def scale_through_identity() -> onnx.ModelProto:
    b = Builder()
    ends = [b.node("Identity", [b.constant(0.05)]), b.constant(0, TensorProto.INT8)]
    x = b.node("DequantizeLinear", [b.node("QuantizeLinear", ["input", *ends]), *ends])
    return b.model(b.conv(x, b.weight()))


@case
def weight_through_transpose() -> onnx.ModelProto:
    b = Builder()
    weight = b.dq(b.codes(CHANNELS, OUT, 3, 3), np.full(OUT, 0.01), axis=1)
    return b.model(b.conv(b.qdq("input"), b.node("Transpose", [weight], perm=[1, 0, 2, 3])))


@case
def int8_from_output_dtype() -> onnx.ModelProto:
    b = Builder(opset=21)
    scale = b.constant(0.05)
    quantized = b.node("QuantizeLinear", ["input", scale], output_dtype=TensorProto.INT8)
    return b.model(b.conv(b.node("DequantizeLinear", [quantized, scale]), b.weight()))


@case
def float8() -> onnx.ModelProto:
    b = Builder()
    x = b.qdq("input", kind=TensorProto.FLOAT8E4M3FN)
    return b.model(b.conv(x, b.constant(b.floats(OUT, CHANNELS, 3, 3))))


@case
def float8_e5m2() -> onnx.ModelProto:
    b = Builder()
    x = b.qdq("input", kind=TensorProto.FLOAT8E5M2)
    return b.model(b.conv(x, b.constant(b.floats(OUT, CHANNELS, 3, 3))))


@case
def int4_weights() -> onnx.ModelProto:
    b = Builder(opset=21)
    flat = b.node("Flatten", [b.node("GlobalAveragePool", ["input"])])
    weight = b.dq(b.codes(CHANNELS, OUT, low=-7, high=8), np.full(OUT, 0.01), kind=TensorProto.INT4, axis=1)
    return b.model(b.node("MatMul", [flat, weight]))


@case
def int4_weights_in_blocks() -> onnx.ModelProto:
    b = Builder(opset=21)
    flat = b.node("Flatten", ["input"])
    rows = CHANNELS * SIZE * SIZE
    codes, scales = b.codes(rows, OUT, low=-7, high=8), np.full((rows // 128, OUT), 0.01)
    weight = b.dq(codes, scales, kind=TensorProto.INT4, axis=0, block_size=128)
    return b.model(b.node("MatMul", [flat, weight]))


@case
def negative_axis() -> onnx.ModelProto:
    b = Builder()
    weight = b.dq(b.codes(OUT, CHANNELS, 3, 3), np.full(OUT, 0.01), axis=-4)
    return b.model(b.conv(b.qdq("input"), weight))


@case
def scale_of_shape_one() -> onnx.ModelProto:
    return _convolution(scale=np.full(1, 0.05))


# ---- Accepted, but wrong or slow -----------------------------------------------------------------


@case
def unsigned() -> onnx.ModelProto:
    return _convolution(kind=TensorProto.UINT8)


@case
def no_zero_point() -> onnx.ModelProto:
    return _convolution(kind=None)


@case
def activation_per_channel() -> onnx.ModelProto:
    b = Builder()
    x = b.qdq("input", scale=np.full(CHANNELS, 0.05), axis=1)
    return b.model(b.conv(x, b.weight()))


@case
def weight_per_input_channel() -> onnx.ModelProto:
    b = Builder()
    weight = b.dq(b.codes(OUT, CHANNELS, 3, 3), np.full(CHANNELS, 0.01), axis=1)
    return b.model(b.conv(b.qdq("input"), weight))


@case
def gemm_per_input_feature() -> onnx.ModelProto:
    return _gemm(trans=1, axis=1)


@case
def weight_in_float() -> onnx.ModelProto:
    b = Builder()
    return b.model(b.conv(b.qdq("input"), b.constant(b.floats(OUT, CHANNELS, 3, 3))))


@case
def activation_in_float() -> onnx.ModelProto:
    b = Builder()
    return b.model(b.conv("input", b.weight()))


@case
def skip_in_float() -> onnx.ModelProto:
    return _residual(skip=False)


@case
def quantizer_before_relu() -> onnx.ModelProto:
    b = Builder()
    return b.model(b.qdq(b.node("Relu", [b.qdq(b.conv(b.qdq("input"), b.weight()))])))


@case
def quantized_output_without_dequantize() -> onnx.ModelProto:
    b = Builder()
    x = b.conv(b.qdq("input"), b.weight())
    ends = [b.constant(0.05), b.constant(0, TensorProto.INT8)]
    return b.model(b.node("QuantizeLinear", [x, *ends]), output_kind=TensorProto.INT8)


@case
def int8_input() -> onnx.ModelProto:
    b = Builder()
    x = b.node("DequantizeLinear", ["input", b.constant(0.05), b.constant(0, TensorProto.INT8)])
    return b.model(b.conv(x, b.weight()), input_kind=TensorProto.INT8)


@case
def uint8_input() -> onnx.ModelProto:
    b = Builder()
    x = b.node("DequantizeLinear", ["input", b.constant(0.05), b.constant(0, TensorProto.UINT8)])
    return b.model(b.conv(x, b.weight()), input_kind=TensorProto.UINT8)


# ---- Refused -------------------------------------------------------------------------------------


@case
def zero_point() -> onnx.ModelProto:
    return _convolution(zero=3)


@case
def unsigned_zero_point() -> onnx.ModelProto:
    return _convolution(zero=128, kind=TensorProto.UINT8)


@case
def weight_zero_point() -> onnx.ModelProto:
    b = Builder()
    weight = b.dq(b.codes(OUT, CHANNELS, 3, 3), np.full(OUT, 0.01), zero=1, axis=0)
    return b.model(b.conv(b.qdq("input"), weight))


@case
def weight_zero_point_of_one_channel() -> onnx.ModelProto:
    b = Builder()
    zero = np.eye(1, OUT, 2)[0]
    weight = b.dq(b.codes(OUT, CHANNELS, 3, 3), np.full(OUT, 0.01), zero=zero, axis=0)
    return b.model(b.conv(b.qdq("input"), weight))


@case
def weight_unsigned() -> onnx.ModelProto:
    b = Builder()
    codes = b.codes(OUT, CHANNELS, 3, 3, low=0)
    weight = b.dq(codes, np.full(OUT, 0.01), kind=TensorProto.UINT8, axis=0)
    return b.model(b.conv(b.qdq("input"), weight))


@case
def unsigned_weight_from_a_constant_node() -> onnx.ModelProto:
    b = Builder()
    codes = numpy_helper.from_array(b.codes(OUT, CHANNELS, 3, 3, low=0).astype(np.uint8))
    ends = [b.constant(np.full(OUT, 0.01)), b.constant(np.zeros(OUT), TensorProto.UINT8)]
    weight = b.node("DequantizeLinear", [b.node("Constant", [], value=codes), *ends], axis=0)
    return b.model(b.conv(b.qdq("input"), weight))


@case
def int32_bias() -> onnx.ModelProto:
    b = Builder()
    bias = b.dq(b.codes(OUT), np.full(OUT, 0.0005), kind=TensorProto.INT32, axis=0)
    return b.model(b.conv(b.qdq("input"), b.weight(), bias))


@case
def int8_bias() -> onnx.ModelProto:
    b = Builder()
    return b.model(b.conv(b.qdq("input"), b.weight(), b.dq(b.codes(OUT), 0.01)))


@case
def negative_scale() -> onnx.ModelProto:
    return _convolution(scale=-0.05)


@case
def zero_scale() -> onnx.ModelProto:
    return _convolution(scale=0.0)


@case
def infinite_scale() -> onnx.ModelProto:
    return _convolution(scale=np.inf)


@case
def nan_scale() -> onnx.ModelProto:
    return _convolution(scale=np.nan)


@case
def negative_weight_scale_of_one_channel() -> onnx.ModelProto:
    b = Builder()
    scale = np.full(OUT, 0.01)
    scale[3] = -0.01
    return b.model(b.conv(b.qdq("input"), b.dq(b.codes(OUT, CHANNELS, 3, 3), scale, axis=0)))


@case
def int16() -> onnx.ModelProto:
    return _convolution(opset=21, kind=TensorProto.INT16)


@case
def uint16() -> onnx.ModelProto:
    return _convolution(opset=21, kind=TensorProto.UINT16)


@case
def int16_weights() -> onnx.ModelProto:
    b = Builder(opset=21)
    weight = b.dq(b.codes(OUT, CHANNELS, 3, 3), np.full(OUT, 0.01), kind=TensorProto.INT16, axis=0)
    return b.model(b.conv(b.qdq("input"), weight))


@case
def uint4_weights() -> onnx.ModelProto:
    b = Builder(opset=21)
    flat = b.node("Flatten", [b.node("GlobalAveragePool", ["input"])])
    codes = b.codes(CHANNELS, OUT, low=0, high=16)
    weight = b.dq(codes, np.full(OUT, 0.01), kind=TensorProto.UINT4, axis=1)
    return b.model(b.node("MatMul", [flat, weight]))


@case
def scale_count_does_not_fit() -> onnx.ModelProto:
    b = Builder()
    weight = b.dq(b.codes(OUT, CHANNELS, 3, 3), np.full(OUT - 1, 0.01), axis=0)
    return b.model(b.conv(b.qdq("input"), weight))


@case
def scale_is_an_input() -> onnx.ModelProto:
    b = Builder()
    ends = ["scale", b.constant(0, TensorProto.INT8)]
    x = b.node("DequantizeLinear", [b.node("QuantizeLinear", ["input", *ends]), *ends])
    scale = helper.make_tensor_value_info("scale", TensorProto.FLOAT, [])
    return b.model(b.conv(x, b.weight()), inputs=(scale,))


@case
def scale_is_computed() -> onnx.ModelProto:
    b = Builder()
    ends = [b.node("ReduceMax", ["input"], keepdims=0), b.constant(0, TensorProto.INT8)]
    x = b.node("DequantizeLinear", [b.node("QuantizeLinear", ["input", *ends]), *ends])
    return b.model(b.conv(x, b.weight()))


@case
def zero_point_is_an_input() -> onnx.ModelProto:
    b = Builder()
    ends = [b.constant(0.05), "zero"]
    x = b.node("DequantizeLinear", [b.node("QuantizeLinear", ["input", *ends]), *ends])
    zero = helper.make_tensor_value_info("zero", TensorProto.INT8, [])
    return b.model(b.conv(x, b.weight()), inputs=(zero,))


@case
def qlinear_conv() -> onnx.ModelProto:
    b = Builder()
    ends = [b.constant(0.05), b.constant(0, TensorProto.INT8)]
    weight = b.constant(b.codes(OUT, CHANNELS, 3, 3), TensorProto.INT8)
    x = b.node("QuantizeLinear", ["input", *ends])
    x = b.node("QLinearConv", [x, *ends, weight, *ends, *ends])
    return b.model(b.node("DequantizeLinear", [x, *ends]))


@case
def qlinear_matmul() -> onnx.ModelProto:
    b = Builder()
    ends = [b.constant(0.05), b.constant(0, TensorProto.INT8)]
    weight = b.constant(b.codes(SIZE, OUT), TensorProto.INT8)
    x = b.node("QuantizeLinear", ["input", *ends])
    return b.model(
        b.node("DequantizeLinear", [b.node("QLinearMatMul", [x, *ends, weight, *ends, *ends]), *ends])
    )


@case
def conv_integer() -> onnx.ModelProto:
    b = Builder()
    x = b.node("QuantizeLinear", ["input", b.constant(0.05), b.constant(0, TensorProto.INT8)])
    weight = b.constant(b.codes(OUT, CHANNELS, 3, 3), TensorProto.INT8)
    return b.model(b.node("ConvInteger", [x, weight]), output_kind=TensorProto.INT32)


@case
def matmul_integer() -> onnx.ModelProto:
    b = Builder()
    x = b.node("QuantizeLinear", ["input", b.constant(0.05), b.constant(0, TensorProto.INT8)])
    weight = b.constant(b.codes(SIZE, OUT), TensorProto.INT8)
    return b.model(b.node("MatMulInteger", [x, weight]), output_kind=TensorProto.INT32)


@case
def dynamic_quantization() -> onnx.ModelProto:
    b = Builder()
    quantized = b.node("DynamicQuantizeLinear", ["input"])
    ends = [quantized.replace(":0", ":1"), quantized.replace(":0", ":2")]
    return b.model(b.conv(b.node("DequantizeLinear", [quantized, *ends]), b.weight()))


@case
def contributed_qlinear_add() -> onnx.ModelProto:
    b = Builder()
    ends = [b.constant(0.05), b.constant(0, TensorProto.INT8)]
    x = b.node("QuantizeLinear", ["input", *ends])
    x = b.node("QLinearAdd", [x, *ends, x, *ends, *ends], domain="com.microsoft")
    return b.model(b.node("DequantizeLinear", [x, *ends]), domains=("com.microsoft",))


@case
def contributed_quantizers() -> onnx.ModelProto:
    """ONNX Runtime's own QuantizeLinear, which it writes for 16 bits below opset 21."""
    b = Builder()
    ends = [b.constant(0.05), b.constant(0, TensorProto.INT8)]
    x = b.node("QuantizeLinear", ["input", *ends], domain="com.microsoft")
    x = b.node("DequantizeLinear", [x, *ends], domain="com.microsoft")
    return b.model(b.conv(x, b.weight()), domains=("com.microsoft",))


@case
def contributed_gelu() -> onnx.ModelProto:
    b = Builder()
    return b.model(b.node("Gelu", ["input"], domain="com.microsoft"), domains=("com.microsoft",))


@case
def unknown_domain() -> onnx.ModelProto:
    b = Builder()
    return b.model(b.node("Swirl", ["input"], domain="example.com"), domains=("example.com",))


@case
def unsupported_operator() -> onnx.ModelProto:
    b = Builder()
    return b.model(b.node("Det", ["input"]))


@case
def int8_arithmetic() -> onnx.ModelProto:
    """A MaxPool between QuantizeLinear and DequantizeLinear: it runs on the codes."""
    b = Builder()
    ends = [b.constant(0.05), b.constant(0, TensorProto.INT8)]
    x = b.node("MaxPool", [b.node("QuantizeLinear", ["input", *ends])], kernel_shape=[2, 2])
    return b.model(b.conv(b.node("DequantizeLinear", [x, *ends]), b.weight()))


@case
def different_scales_around_codes() -> onnx.ModelProto:
    b = Builder()
    zero = b.constant(0, TensorProto.INT8)
    x = b.node("QuantizeLinear", ["input", b.constant(0.05), zero])
    x = b.node("DequantizeLinear", [x, b.constant(0.1), zero])
    return b.model(b.conv(x, b.weight()))


@case
def half_scales_on_float() -> onnx.ModelProto:
    """Scales of another type than the tensor, which ONNX has allowed since opset 23 only."""
    b = Builder()
    ends = [b.constant(0.05, TensorProto.FLOAT16), b.constant(0, TensorProto.INT8)]
    x = b.node("DequantizeLinear", [b.node("QuantizeLinear", ["input", *ends]), *ends])
    return b.model(b.conv(x, b.weight()))


@case
def int8_blocks() -> onnx.ModelProto:
    b = Builder(opset=21)
    flat = b.node("Flatten", ["input"])
    rows = CHANNELS * SIZE * SIZE
    weight = b.dq(b.codes(rows, OUT), np.full((rows // 32, OUT), 0.01), axis=0, block_size=32)
    return b.model(b.node("MatMul", [b.qdq(flat), weight]))


@case
def opset_10_per_channel() -> onnx.ModelProto:
    """Opset 10 has no axis: a scale per channel is no valid ONNX."""
    b = Builder(opset=10)
    return b.model(b.conv(b.qdq("input"), b.dq(b.codes(OUT, CHANNELS, 3, 3), np.full(OUT, 0.01))))


@case
def opset_26() -> onnx.ModelProto:
    return _convolution(opset=26)


@case
def uint8_input_and_cast() -> onnx.ModelProto:
    b = Builder()
    x = b.node("Cast", ["input"], to=TensorProto.FLOAT)
    return b.model(b.conv(b.qdq(x), b.weight()), input_kind=TensorProto.UINT8)


@case
def double_graph() -> onnx.ModelProto:
    b = Builder()
    x = b.node("Cast", ["input"], to=TensorProto.FLOAT)
    return b.model(b.conv(b.qdq(x), b.weight()), input_kind=TensorProto.DOUBLE)


@case
def mixed_types_behind_a_cast() -> onnx.ModelProto:
    b = Builder()
    x = b.node("Cast", ["input"], to=TensorProto.FLOAT16)
    return b.model(b.node("Add", [x, "input"]))


@case
def quantizers_in_a_branch() -> onnx.ModelProto:
    return _branch(zero=0)


@case
def zero_point_in_a_branch() -> onnx.ModelProto:
    return _branch(zero=3)


def _branch(*, zero: int) -> onnx.ModelProto:
    b, inner = Builder(), Builder()
    end = inner.qdq("input", zero=zero)
    made = helper.make_tensor_value_info(end, TensorProto.FLOAT, [1, CHANNELS, SIZE, SIZE])
    for node in inner.nodes:
        node.name = f"inner_{node.name}"
    then = helper.make_graph(inner.nodes, "then", [], [made], inner.constants)
    other = helper.make_node("Relu", ["input"], ["relu_of_else"], "relu_of_else")
    made = helper.make_tensor_value_info("relu_of_else", TensorProto.FLOAT, [1, CHANNELS, SIZE, SIZE])
    otherwise = helper.make_graph([other], "else", [], [made])
    condition = helper.make_tensor_value_info("condition", TensorProto.BOOL, [])
    x = b.node("If", ["condition"], then_branch=then, else_branch=otherwise)
    return b.model(x, inputs=(condition,))


@case
def zero_point_in_a_function() -> onnx.ModelProto:
    b, ends = Builder(), ["scale", "zero"]
    nodes = [
        helper.make_node(
            "Constant", [], ["scale"], value=numpy_helper.from_array(np.array(0.05, np.float32))
        ),
        helper.make_node("Constant", [], ["zero"], value=numpy_helper.from_array(np.array(3, np.int8))),
        helper.make_node("QuantizeLinear", ["x", *ends], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", *ends], ["y"], "dq"),
    ]
    model = b.model(b.node("Fake", ["input"], domain="own"), domains=("own",))
    model.functions.append(
        helper.make_function("own", "Fake", ["x"], ["y"], nodes, [helper.make_opsetid("", 19)])
    )
    return model


# ---- Constants of codes that no DequantizeLinear reads (the builder refuses them, not the parser) ---


@case
def padded_codes() -> onnx.ModelProto:
    """What ONNX Runtime makes of a quantized Pad: it pads codes with a code."""
    b = Builder()
    ends = [b.constant(0.05), b.constant(0, TensorProto.INT8)]
    x = b.node("QuantizeLinear", ["input", *ends])
    pads = b.constant([0, 0, 1, 1, 0, 0, 1, 1], TensorProto.INT64)
    x = b.node("Pad", [x, pads, b.constant(0, TensorProto.INT8)])
    return b.model(b.conv(b.node("DequantizeLinear", [x, *ends]), b.weight()))


@case
def padded_codes_without_a_value() -> onnx.ModelProto:
    b = Builder()
    ends = [b.constant(0.05), b.constant(0, TensorProto.INT8)]
    x = b.node("QuantizeLinear", ["input", *ends])
    x = b.node("Pad", [x, b.constant([0, 0, 1, 1, 0, 0, 1, 1], TensorProto.INT64)])
    return b.model(b.conv(b.node("DequantizeLinear", [x, *ends]), b.weight()))


def _moved_codes(op: str, *inputs: int, **attributes: object) -> onnx.ModelProto:
    b = Builder()
    codes = b.constant(b.codes(OUT, CHANNELS, 3, 3), TensorProto.INT8)
    moved = b.node(op, [codes, *([b.constant(inputs, TensorProto.INT64)] if inputs else [])], **attributes)
    ends = [b.constant(0.01), b.constant(0, TensorProto.INT8)]
    return b.model(b.conv(b.qdq("input"), b.node("DequantizeLinear", [moved, *ends])))


@case
def transposed_codes() -> onnx.ModelProto:
    return _moved_codes("Transpose", perm=[0, 1, 3, 2])


@case
def reshaped_codes() -> onnx.ModelProto:
    return _moved_codes("Reshape", OUT, CHANNELS, 3, 3)


@case
def codes_through_identity() -> onnx.ModelProto:
    return _moved_codes("Identity")


@case
def cast_codes() -> onnx.ModelProto:
    b = Builder()
    codes = b.constant(b.codes(OUT, CHANNELS, 3, 3), TensorProto.INT8)
    return b.model(b.conv("input", b.node("Cast", [codes], to=TensorProto.FLOAT)))


@case
def concatenated_codes() -> onnx.ModelProto:
    b = Builder()
    ends = [b.constant(0.05), b.constant(0, TensorProto.INT8)]
    x = b.node("QuantizeLinear", ["input", *ends])
    extra = b.constant(b.codes(1, CHANNELS, SIZE, SIZE), TensorProto.INT8)
    return b.model(b.node("DequantizeLinear", [b.node("Concat", [x, extra], axis=1), *ends]))


@case
def zero_point_through_identity() -> onnx.ModelProto:
    b = Builder()
    ends = [b.constant(0.05), b.node("Identity", [b.constant(0, TensorProto.INT8)])]
    x = b.node("DequantizeLinear", [b.node("QuantizeLinear", ["input", *ends]), *ends])
    return b.model(b.conv(x, b.weight()))


@case
def padded_float8_codes() -> onnx.ModelProto:
    b = Builder()
    ends = [b.constant(0.05), b.constant(0, TensorProto.FLOAT8E4M3FN)]
    x = b.node("QuantizeLinear", ["input", *ends])
    pads = b.constant([0, 0, 1, 1, 0, 0, 1, 1], TensorProto.INT64)
    x = b.node("Pad", [x, pads, b.constant(0, TensorProto.FLOAT8E4M3FN)])
    weight = b.constant(b.floats(OUT, CHANNELS, 3, 3))
    return b.model(b.conv(b.node("DequantizeLinear", [x, *ends]), weight))


def _padded(*, before: bool, value: str, behind: bool) -> onnx.ModelProto:
    """Pad with quantizers before and behind it; its value float, int8 (`dq`) or quantized in the graph."""
    b = Builder()
    x = b.qdq("input") if before else "input"
    filling = {
        "float": lambda: b.constant(0.0),
        "dq": lambda: b.dq(np.array(0), 0.05),
        "dq of one": lambda: b.dq(np.array([0]), 0.05),
        "qdq": lambda: b.qdq(b.constant(0.0)),
    }[value]()
    x = b.node("Pad", [x, b.constant([0, 0, 1, 1, 0, 0, 1, 1], TensorProto.INT64), filling])
    return b.model(b.conv(b.qdq(x) if behind else x, b.weight()))


@case
def pad_with_float_value() -> onnx.ModelProto:
    return _padded(before=True, value="float", behind=True)


@case
def pad_with_int8_value() -> onnx.ModelProto:
    return _padded(before=True, value="dq", behind=True)


@case
def pad_with_int8_value_of_float_input() -> onnx.ModelProto:
    return _padded(before=False, value="dq", behind=True)


@case
def pad_with_int8_value_and_float_output() -> onnx.ModelProto:
    return _padded(before=True, value="dq", behind=False)


@case
def pad_with_int8_value_in_float() -> onnx.ModelProto:
    return _padded(before=False, value="dq", behind=False)


@case
def pad_with_quantized_value() -> onnx.ModelProto:
    return _padded(before=True, value="qdq", behind=True)


@case
def pad_with_int8_value_of_shape_one() -> onnx.ModelProto:
    return _padded(before=True, value="dq of one", behind=True)


@case
def clip_at_int8_bounds() -> onnx.ModelProto:
    b = Builder()
    x = b.conv(b.qdq("input"), b.weight())
    return b.model(b.node("Clip", [x, b.dq(np.array(0), 0.05), b.dq(np.array(120), 0.05)]))


@case
def multiplied_by_an_int8_number() -> onnx.ModelProto:
    b = Builder()
    x = b.conv(b.qdq("input"), b.weight())
    return b.model(b.node("Mul", [x, b.dq(np.array(100), 0.05)]))


@case
def added_int8_number() -> onnx.ModelProto:
    b = Builder()
    x = b.conv(b.qdq("input"), b.weight())
    return b.model(b.node("Add", [b.qdq(x), b.dq(np.array(100), 0.05)]))


@case
def multiplied_by_one_int8_in_a_vector() -> onnx.ModelProto:
    b = Builder()
    x = b.conv(b.qdq("input"), b.weight())
    return b.model(b.node("Mul", [x, b.dq(np.array([[[[100]]]]), 0.05)]))


@case
def multiplied_by_a_number_quantized_in_the_graph() -> onnx.ModelProto:
    b = Builder()
    x = b.conv(b.qdq("input"), b.weight())
    return b.model(b.node("Mul", [x, b.qdq(b.constant(3.0))]))
