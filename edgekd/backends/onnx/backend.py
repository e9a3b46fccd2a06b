"""The description of the ONNX backend."""

from __future__ import annotations

from pathlib import Path

from edgekd.backends.backend import Backend

BACKEND = Backend(
    name="onnx",
    title="ONNX Runtime",
    suffix=".onnx",
    exporter="edgekd.backends.onnx.export:export",
    extra="train",
    package="torch",
    runtime=Path(__file__).with_name("runtime.py"),
    baseline="edgekd.backends.onnx.baseline:one_node_graph",
    libraries=("onnx", "onnxruntime", "numpy"),
    device_packages={"numpy": "numpy", "onnxruntime": "onnxruntime"},
    precisions=("fp32", "fp16", "int8"),
    profiles=("ort_x86",),
)
