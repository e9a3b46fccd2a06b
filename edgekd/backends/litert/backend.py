"""The description of the LiteRT backend (formerly TensorFlow Lite)."""

from __future__ import annotations

from pathlib import Path

from edgekd.backends.backend import Backend
from edgekd.backends.ranges import TORCH

BACKEND = Backend(
    name="litert",
    title="LiteRT (XNNPACK)",
    suffix=".tflite",
    exporter="edgekd.backends.litert.export:export",
    extra="litert",
    package="ai_edge_litert",
    runtime=Path(__file__).with_name("runtime.py"),
    runtime_parts=tuple(sorted(Path(__file__).parent.glob("litert_*.py"))),
    baseline="edgekd.backends.litert.baseline:one_node_graph",
    libraries=("ai-edge-litert", "torch", "numpy"),
    versions={
        **TORCH,
        "ai-edge-litert": ">=2.1,<2.4",
        "litert-torch": ">=0.10,<0.11",
        "litert-converter": ">=0.5,<0.6",
        "ai-edge-quantizer": ">=0.10,<0.11",
    },
    precisions=("fp32", "fp16", "int8"),
    profiles=("ort_x86",),
    device_packages={"numpy": "numpy", "ai-edge-litert": "ai_edge_litert"},
    environment="edgekd.backends.litert.environment",
)
