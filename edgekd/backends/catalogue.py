"""The backends that a recipe may name."""

from __future__ import annotations

from edgekd.backends.backend import Backend
from edgekd.core.registry import Entry, Registry

BACKENDS: Registry[Backend] = Registry(
    "backend",
    [
        Entry(
            "onnx",
            "edgekd.backends.onnx.backend:BACKEND",
            "ONNX graph (opset 20, Q/DQ for INT8) run by ONNX Runtime",
        ),
        Entry(
            "openvino",
            "edgekd.backends.openvino.backend:BACKEND",
            "OpenVINO IR (.xml and .bin) for Intel and Arm processors",
            extra="openvino",
        ),
        Entry(
            "executorch",
            "edgekd.backends.executorch.backend:BACKEND",
            "ExecuTorch program (.pte) for XNNPACK, on phones and Arm boards",
            extra="executorch",
        ),
        Entry(
            "tensorrt",
            "edgekd.backends.tensorrt.backend:BACKEND",
            "ONNX graph in TensorRT's form; its engine is built on the device",
            extra="train",
        ),
        Entry(
            "litert",
            "edgekd.backends.litert.backend:BACKEND",
            "LiteRT (.tflite) for XNNPACK, on phones and Arm boards",
            extra="litert",
        ),
        Entry(
            "ncnn",
            "edgekd.backends.ncnn.backend:BACKEND",
            "ncnn network (.param and .bin) in FP32, for phones and small boards",
            extra="ncnn",
        ),
        Entry(
            "coreml",
            "edgekd.backends.coreml.backend:BACKEND",
            "Core ML package (.mlpackage.zip) for Apple's devices; experimental: converted, checked, not run",
            extra="coreml",
        ),
    ],
    group="edgekd.backends",
)
