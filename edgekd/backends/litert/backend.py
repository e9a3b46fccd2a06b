"""The description of the LiteRT backend (formerly TensorFlow Lite)."""

from __future__ import annotations

from pathlib import Path

from edgekd.backends.backend import Backend

BACKEND = Backend(
    name="litert",
    title="LiteRT (XNNPACK)",
    suffix=".tflite",
    exporter="edgekd.backends.litert.export:export",
    extra="litert",
    package="ai_edge_litert",
    runtime=Path(__file__).with_name("runtime.py"),
    baseline="edgekd.backends.litert.baseline:one_node_graph",
    libraries=("ai-edge-litert", "torch", "numpy"),
    precisions=("fp32", "fp16", "int8"),
    profiles=("ort_x86",),
    device_packages={"numpy": "numpy", "ai-edge-litert": "ai_edge_litert"},
    environment="edgekd.backends.litert.environment",
)
