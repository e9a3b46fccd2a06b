"""The description of the TensorRT backend: the file is ONNX, its engine is built on the device."""

from __future__ import annotations

from pathlib import Path

from edgekd.backends.backend import Backend
from edgekd.backends.ranges import TORCH_AND_ONNX
from edgekd.backends.tensorrt.options import TensorrtOptions

BACKEND = Backend(
    name="tensorrt",
    title="TensorRT",
    suffix=".onnx",
    exporter="edgekd.backends.tensorrt.export:export",
    extra="train",
    package="torch",
    runtime=Path(__file__).with_name("runtime.py"),
    runtime_parts=tuple(sorted(Path(__file__).parent.glob("tensorrt_*.py"))),
    baseline="edgekd.backends.tensorrt.baseline:one_node_graph",
    libraries=("onnx", "numpy", "tensorrt-rtx"),
    versions={**TORCH_AND_ONNX, "tensorrt": ">=10.3,<12", "tensorrt-rtx": ">=1.7,<2"},
    precisions=("fp32", "fp16", "int8"),
    checked_by="onnx",  # a GPU is not where files are made; ONNX Runtime takes the same file
    profiles=("tensorrt",),
    check_options={"optimization": "none"},  # its optimizers are wrong on Q/DQ in half precision
    options=TensorrtOptions,
    opening_s=1800.0,  # TensorRT times kernels while it builds; not known of any device: no GPU
)
