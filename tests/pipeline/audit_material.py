"""A classifier of colors, exact by construction, and images of which a few are ambiguous."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

CLASSES = ("red", "green", "blue")
GATE = {"accuracy": "80%", "size": "10KB"}


def images(count: int = 240, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """uint8 `[N, 8, 8, 3]`, each a little brighter in the channel of its class, and int64 labels `[N]`."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    pixels = generator.normal(110, 40, (count, 8, 8, 3)) + 26 * np.eye(3)[labels][:, None, None, :]
    return np.clip(pixels, 0, 255).astype(np.uint8), labels


def color_model(path: Path, *, order: tuple[int, ...] = (0, 1, 2), gain: float = 1.0) -> Path:
    """Mean of each channel times 20 to the logits `[N, 3]`, in an `order` of the channels."""
    weight = np.eye(3, dtype=np.float32)[:, list(order)] * np.float32(20 * gain)
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["input"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("MatMul", ["f", "w"], ["logits"]),
        ],
        "colors",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    return path


def arrays(folder: Path, **how: int) -> Path:
    """images.npy, labels.npy and classes.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels, labels = images(**how)
    np.save(folder / "images.npy", pixels)
    np.save(folder / "labels.npy", labels)
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    return folder
