"""The description of the ONNX backend."""

from __future__ import annotations

from pathlib import Path

from edgekd.backends.backend import Backend
from edgekd.backends.onnx.onnx_file import COMPANION
from edgekd.backends.onnx.options import OnnxOptions
from edgekd.backends.ranges import TORCH_AND_ONNX

BACKEND = Backend(
    name="onnx",
    title="ONNX Runtime",
    suffix=".onnx",
    companions=(COMPANION,),
    exporter="edgekd.backends.onnx.export:export",
    check="edgekd.backends.onnx.optimization_check:check",
    extra="train",
    package="torch",
    runtime=Path(__file__).with_name("runtime.py"),
    runtime_parts=tuple(sorted(Path(__file__).parent.glob("onnx_*.py"))),
    baseline="edgekd.backends.onnx.baseline:one_node_graph",
    libraries=("onnx", "onnxruntime", "numpy"),
    device_packages={"numpy": "numpy", "onnxruntime": "onnxruntime"},
    versions={**TORCH_AND_ONNX, "onnxruntime": ">=1.18,<2"},
    precisions=("fp32", "fp16", "int8"),
    profiles=("ort_x86",),
    options=OnnxOptions,
)
