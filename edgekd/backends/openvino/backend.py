"""The description of the OpenVINO backend."""

from __future__ import annotations

from pathlib import Path

from edgekd.backends.backend import Backend

BACKEND = Backend(
    name="openvino",
    title="OpenVINO",
    suffix=".xml",
    companions=(".bin",),
    exporter="edgekd.backends.openvino.export:export",
    extra="openvino",
    package="openvino",
    runtime=Path(__file__).with_name("runtime.py"),
    baseline="edgekd.backends.openvino.baseline:one_node_graph",
    libraries=("openvino", "onnx", "numpy"),
    device_packages={"numpy": "numpy", "openvino": "openvino"},
    precisions=("fp32", "fp16", "int8"),
    profiles=("ort_x86",),
)
