"""How ONNX Runtime's CPU provider on x86-64 wants Q/DQ, so that every operation becomes an int8 kernel."""

from __future__ import annotations

from edgekd.backends.profile import Grid, Profile

# uint8 activations: MLAS has no fast int8 x int8 kernel on x86, and a ReLU disappears into QuantizeLinear
# only where the zero point is the lowest code (onnxruntime issue 11660, pull request 11696).
ORT_X86 = Profile(
    name="ort_x86",
    inputs={
        "conv": "all",
        "depthwise_conv": "all",
        "linear": "all",
        "add": "all",
        "multiply": "all",
        "concat": "all",
        "average_pool": "all",
        "global_average_pool": "all",
    },
    outputs=frozenset(
        {
            "conv",
            "depthwise_conv",
            "linear",
            "add",
            "multiply",
            "concat",
            "average_pool",
            "global_average_pool",
        }
    ),
    absorbed=frozenset({"relu", "relu6"}),
    shared=frozenset({"max_pool", "flatten", "reshape", "slice", "pad"}),
    weights={"conv": "int32", "depthwise_conv": "int32", "linear": "int32"},
    nonnegative=Grid(low=0, high=255, zero_point=0),
    signed=Grid(low=0, high=255),
    kernels={
        "conv": "QLinearConv",
        "depthwise_conv": "QLinearConv",
        "linear": "QGemm",
        "add": "QLinearAdd",
        "multiply": "QLinearMul",
        "concat": "QLinearConcat",
        "average_pool": "QLinearAveragePool",
        "global_average_pool": "QLinearGlobalAveragePool",
    },
)
