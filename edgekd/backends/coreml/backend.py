"""The description of the Core ML backend: experimental, it converts and checks, and cannot run here."""

from __future__ import annotations

from pathlib import Path

from edgekd.backends.backend import Backend
from edgekd.backends.ranges import TORCH

BACKEND = Backend(
    name="coreml",
    title="Core ML",
    suffix=".mlpackage.zip",
    exporter="edgekd.backends.coreml.export:export",
    extra="coreml",
    package="coremltools",
    runtime=Path(__file__).with_name("runtime.py"),
    baseline="edgekd.backends.coreml.baseline:one_node_graph",
    libraries=("coremltools", "torch", "numpy"),
    versions={**TORCH, "coremltools": ">=9,<10"},
    precisions=("fp32", "fp16"),
    device_packages={"numpy": "numpy", "coremltools": "coremltools"},
)
"""No int8: Core ML would get weights of int8 alone, computed with in fp16, and int8 in a recipe is both."""
