"""The description of the ncnn backend."""

from __future__ import annotations

from pathlib import Path

from edgekd.backends.backend import Backend

BACKEND = Backend(
    name="ncnn",
    title="ncnn",
    suffix=".ncnn.param",
    companions=(".bin",),
    exporter="edgekd.backends.ncnn.export:export",
    extra="ncnn",
    package="pnnx",
    runtime=Path(__file__).with_name("runtime.py"),
    baseline="edgekd.backends.ncnn.baseline:one_node_graph",
    libraries=("ncnn", "pnnx", "torch", "numpy"),
    precisions=("fp32",),
    device_packages={"numpy": "numpy", "ncnn": "ncnn"},
)
