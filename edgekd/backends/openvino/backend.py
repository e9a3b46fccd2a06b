"""The description of the OpenVINO backend."""

from __future__ import annotations

from pathlib import Path

from edgekd.backends.backend import Backend
from edgekd.backends.ranges import TORCH_AND_ONNX

BACKEND = Backend(
    name="openvino",
    title="OpenVINO",
    suffix=".xml",
    companions=(".bin",),
    exporter="edgekd.backends.openvino.export:export",
    extra="openvino",
    package="openvino",
    runtime=Path(__file__).with_name("runtime.py"),
    runtime_parts=tuple(sorted(Path(__file__).parent.glob("openvino_*.py"))),
    baseline="edgekd.backends.openvino.baseline:one_node_graph",
    libraries=("openvino", "onnx", "numpy"),
    device_packages={"numpy": "numpy", "openvino": "openvino"},
    versions={**TORCH_AND_ONNX, "openvino": ">=2026.4,<2027"},
    precisions=("fp32", "fp16", "bf16", "int8"),
    profiles=("ort_x86",),
)
