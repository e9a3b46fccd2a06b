"""The description of the ncnn backend."""

from __future__ import annotations

from pathlib import Path

from edgekd.backends.backend import Backend
from edgekd.backends.ranges import TORCH

BACKEND = Backend(
    name="ncnn",
    title="ncnn",
    suffix=".ncnn.param",
    companions=(".bin",),
    exporter="edgekd.backends.ncnn.export:export",
    extra="ncnn",
    package="pnnx",
    runtime=Path(__file__).with_name("runtime.py"),
    runtime_parts=tuple(sorted(Path(__file__).parent.glob("ncnn_*.py"))),
    baseline="edgekd.backends.ncnn.baseline:one_node_graph",
    libraries=("ncnn", "pnnx", "torch", "numpy"),
    versions={**TORCH, "ncnn": ">=1.0.20261020,<1.0.20270000", "pnnx": ">=20261020,<20270000"},
    precisions=("fp32",),
    device_packages={"numpy": "numpy", "ncnn": "ncnn"},
)
