"""The description of the ExecuTorch backend (XNNPACK delegate)."""

from __future__ import annotations

from pathlib import Path

from edgekd.backends.backend import Backend
from edgekd.backends.executorch.options import ExecutorchOptions
from edgekd.backends.ranges import TORCH

BACKEND = Backend(
    name="executorch",
    title="ExecuTorch (XNNPACK)",
    suffix=".pte",
    exporter="edgekd.backends.executorch.export:export",
    extra="executorch",
    package="executorch",
    runtime=Path(__file__).with_name("runtime.py"),
    runtime_parts=tuple(sorted(Path(__file__).parent.glob("executorch_*.py"))),
    baseline="edgekd.backends.executorch.baseline:one_node_graph",
    libraries=("executorch", "torch", "torchao", "numpy"),
    device_packages={"numpy": "numpy", "torch": "torch", "executorch": "executorch"},
    versions={**TORCH, "executorch": ">=1.5,<1.6", "torchao": ">=0.18,<0.19"},
    precisions=("fp32", "int8"),
    profiles=("ort_x86",),
    options=ExecutorchOptions,
)
