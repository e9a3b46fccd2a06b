"""What a round takes to a device: a small quantized network of 32x32 pixels, and 512 images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

NUM_IMAGES = 512
SIZE = 32
CLASSES = tuple("abcdefghij")
_CHANNELS = (3, 16, 24, 32)


def graph(path: Path) -> Path:
    """Three convolutions and a linear layer on integers, random 7-bit weights: every processor is exact."""
    import onnx
    from onnx import TensorProto, helper

    nodes: list[Any] = []
    constants: dict[str, Any] = {}
    source = _quantized(nodes, constants, "input", "x", 0.03, 120)
    for number in range(len(_CHANNELS) - 1):
        source = _convolution(nodes, constants, source, number)
    generator = np.random.default_rng(9)
    constants["fc"] = generator.standard_normal((len(CLASSES), _CHANNELS[-1])).astype(np.float32)
    constants["bias"] = np.zeros(len(CLASSES), np.float32)
    nodes += [
        helper.make_node("GlobalAveragePool", [source], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "fc", "bias"], ["logits"], transB=1),
    ]
    whole = helper.make_graph(
        nodes,
        "round",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", _CHANNELS[0], SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(CLASSES)])],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(whole, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def _quantized(
    nodes: list[Any], constants: dict[str, Any], source: str, name: str, scale: float, zero: int
) -> str:
    from onnx import helper

    constants |= {f"{name}_scale": np.array(scale, np.float32), f"{name}_zero": np.array(zero, np.uint8)}
    parameters = [f"{name}_scale", f"{name}_zero"]
    nodes.append(helper.make_node("QuantizeLinear", [source, *parameters], [f"{name}_q"]))
    nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", *parameters], [f"{name}_d"]))
    return f"{name}_d"


def _convolution(nodes: list[Any], constants: dict[str, Any], source: str, number: int) -> str:
    """3x3, ReLU; every one but the first halves the size."""
    from onnx import helper

    before, after = _CHANNELS[number : number + 2]
    name, stride = f"conv{number}", 1 if number == 0 else 2
    generator = np.random.default_rng(number)
    constants |= {
        f"{name}_w": generator.integers(-64, 65, (after, before, 3, 3)).astype(np.int8),
        f"{name}_ws": np.full(after, 0.01, np.float32),
        f"{name}_wz": np.zeros(after, np.int8),
    }
    weights = [f"{name}_w", f"{name}_ws", f"{name}_wz"]
    nodes += [
        helper.make_node("DequantizeLinear", weights, [f"{name}_wd"], axis=0),
        helper.make_node(
            "Conv", [source, f"{name}_wd"], [f"{name}_y"], pads=[1, 1, 1, 1], strides=[stride, stride]
        ),
        helper.make_node("Relu", [f"{name}_y"], [f"{name}_r"]),
    ]
    return _quantized(nodes, constants, f"{name}_r", f"{name}_a", 0.1 * 4**number, 0)


def evaluation_set(folder: Path) -> Path:
    """images.npy uint8 `[512, 32, 32, 3]` (1.6 MB) and labels.npy."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, SIZE, SIZE, 3), dtype=np.uint8)
    np.save(folder / "images.npy", pixels)
    np.save(folder / "labels.npy", np.arange(NUM_IMAGES) % len(CLASSES))
    return folder


def item(folder: Path) -> Any:
    """The graph with its images as a row to measure."""
    from edgekd.core.digest import of_file
    from edgekd.core.measurement import Subject
    from edgekd.core.preprocess import Preprocess
    from edgekd.measure.findings import Item

    path = graph(folder / "round.onnx")
    subject = Subject(name="round", digest=of_file(path), precision="int8")
    preprocess = Preprocess(size=(SIZE, SIZE), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    return Item(subject=subject, path=path, preprocess=preprocess, evalset=evaluation_set(folder / "evalset"))
