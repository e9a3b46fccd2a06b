"""How TensorRT wants explicit Q/DQ: symmetric int8 before what computes, biases in float.

Source: "Working with Quantized Types", TensorRT documentation 10.x and 11.x. What the parser takes was
executed (TensorRT-RTX 1.7.1); which placement is fastest only a GPU shows: not executed: no GPU.
"""

from __future__ import annotations

from edgekd.backends.profile import Grid, Profile

_INT8 = Grid(low=-128, high=127, zero_point=0)

TENSORRT = Profile(
    name="tensorrt",
    # A convolution, its residual addition and their activation become one kernel that reads int8: its input
    # and what the addition skips are quantized, nothing in between.
    inputs={"conv": "all", "depthwise_conv": "all", "linear": "all", "add": "shortcut"},
    outputs=frozenset(),
    absorbed=frozenset(),
    # A quantizer moves across these without a change.
    shared=frozenset({"max_pool", "flatten", "reshape", "slice", "pad"}),
    # DequantizeLinear of int32, which ONNX Runtime writes for biases, is refused.
    weights={"conv": "grid", "depthwise_conv": "grid", "linear": "grid"},
    nonnegative=_INT8,
    signed=_INT8,
    # The engine names its fused kernels itself; what runs as int8 is read from the device's layer list.
    kernels={},
)
