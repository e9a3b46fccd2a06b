"""The description of the ExecuTorch backend (XNNPACK delegate)."""

from __future__ import annotations

from pathlib import Path

from edgekd.backends.backend import Backend

BACKEND = Backend(
    name="executorch",
    title="ExecuTorch (XNNPACK)",
    suffix=".pte",
    exporter="edgekd.backends.executorch.export:export",
    extra="executorch",
    package="executorch",
    runtime=Path(__file__).with_name("runtime.py"),
    baseline="edgekd.backends.executorch.baseline:one_node_graph",
    libraries=("executorch", "torch", "torchao", "numpy"),
    device_packages={"numpy": "numpy", "torch": "torch", "executorch": "executorch"},
    precisions=("fp32", "int8"),
    profiles=("ort_x86",),
)
