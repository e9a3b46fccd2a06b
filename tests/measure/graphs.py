"""Tiny ONNX graphs and evaluation sets that the tests measure for real."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekd.core.digest import of_file
from edgekd.core.measurement import Subject
from edgekd.core.preprocess import Preprocess
from edgekd.measure.findings import Item

CLASSES = ("a", "b", "c", "d")
PREPROCESS = Preprocess(size=(8, 8), mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


def save(nodes: list[onnx.NodeProto], weights: dict[str, npt.NDArray[np.generic]], path: Path) -> Path:
    """One graph from "input" float `[batch, 3, 8, 8]` to "logits" float `[batch, 4]`."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(CLASSES)])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def conv_net(path: Path, *, width: int = 8, depth: int = 1, seed: int = 0) -> Path:
    """3x3 convolutions with ReLU, global average, one linear layer; random weights."""
    generator = np.random.default_rng(seed)
    nodes, weights, source, channels = [], {}, "input", 3
    for i in range(depth):
        weights[f"w{i}"] = (generator.standard_normal((width, channels, 3, 3)) * 0.3).astype(np.float32)
        nodes.append(helper.make_node("Conv", [source, f"w{i}"], [f"c{i}"], f"conv{i}", pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"], f"relu{i}"))
        source, channels = f"r{i}", width
    weights["fc"] = generator.standard_normal((len(CLASSES), width)).astype(np.float32)
    weights["bias"] = np.zeros(len(CLASSES), np.float32)
    nodes.append(helper.make_node("GlobalAveragePool", [source], ["pooled"], "pool"))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"))
    nodes.append(helper.make_node("Gemm", ["flat", "fc", "bias"], ["logits"], "fc", transB=1))
    return save(nodes, weights, path)


def quantized_net(path: Path, *, width: int = 8, seed: int = 0) -> Path:
    """One convolution between quantizers (uint8 activations, int8 weights), as ONNX Runtime fuses it."""
    generator = np.random.default_rng(seed)
    weights: dict[str, npt.NDArray[np.generic]] = {
        "x_scale": np.float32(0.05).reshape(()),
        "x_zero": np.uint8(100).reshape(()),
        "y_scale": np.float32(0.1).reshape(()),
        "y_zero": np.uint8(0).reshape(()),
        "w": generator.integers(-60, 60, (width, 3, 3, 3)).astype(np.int8),
        "w_scale": np.full(width, 0.01, np.float32),
        "w_zero": np.zeros(width, np.int8),
        "fc": generator.standard_normal((len(CLASSES), width)).astype(np.float32),
        "bias": np.zeros(len(CLASSES), np.float32),
    }
    make = helper.make_node
    nodes = [
        make("QuantizeLinear", ["input", "x_scale", "x_zero"], ["xq"], "xq"),
        make("DequantizeLinear", ["xq", "x_scale", "x_zero"], ["x"], "xd"),
        make("DequantizeLinear", ["w", "w_scale", "w_zero"], ["wd"], "wd", axis=0),
        make("Conv", ["x", "wd"], ["y"], "conv", pads=[1, 1, 1, 1]),
        make("Relu", ["y"], ["r"], "relu"),
        make("QuantizeLinear", ["r", "y_scale", "y_zero"], ["yq"], "yq"),
        make("DequantizeLinear", ["yq", "y_scale", "y_zero"], ["yd"], "yd"),
        make("GlobalAveragePool", ["yd"], ["pooled"], "pool"),
        make("Flatten", ["pooled"], ["flat"], "flatten"),
        make("Gemm", ["flat", "fc", "bias"], ["logits"], "fc", transB=1),
    ]
    return save(nodes, weights, path)


def evaluation_set(folder: Path, *, n: int = 60, seed: int = 0) -> Path:
    """images.npy uint8 `[n, 8, 8, 3]` and labels.npy int64 `[n]`, every class present."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    np.save(folder / "images.npy", generator.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8))
    np.save(folder / "labels.npy", np.arange(n) % len(CLASSES))
    return folder


def item(name: str, path: Path, evalset: Path, precision: str = "fp32") -> Item:
    subject = Subject(name=name, digest=of_file(path), precision=precision)
    return Item(subject=subject, path=path, preprocess=PREPROCESS, evalset=evalset)
