"""Small classifiers made in a second: random convolutions with a linear layer solved by ridge regression.

Two data sets from scikit-learn's digits: `gray` (8x8, ten digits) and `tinted` (24x24 RGB, the digits 0 to 4
in red or in blue, so that the order of the channels decides). Everything follows from seeds.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Array = npt.NDArray[Any]
OPSET, IR = 18, 9
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Data:
    """Images uint8 `[N, H, W, C]` and labels `[N]` of a training and a test half that share no drawing."""

    name: str
    train: tuple[Images, Labels]
    test: tuple[Images, Labels]
    classes: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return self.test[0].shape[1:]  # type: ignore[return-value]


@lru_cache(maxsize=1)
def _digits() -> tuple[Images, Labels]:
    from sklearn.datasets import load_digits

    found = load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    return (found.images[order] * 15.9375).astype(np.uint8), found.target[order].astype(np.int64)


@lru_cache(maxsize=1)
def gray() -> Data:
    images, labels = _digits()
    half = len(labels) // 2
    both = images[..., None]
    return Data(
        "gray", (both[:half], labels[:half]), (both[half:], labels[half:]), tuple(map(str, range(10)))
    )


@lru_cache(maxsize=1)
def tinted() -> Data:
    images, labels = _digits()
    some = labels < 5
    images, labels = images[some], labels[some]
    half = len(labels) // 2
    parts = [
        _tint(images[part], labels[part], seed) for seed, part in enumerate((np.s_[:half], np.s_[half:]))
    ]
    classes = tuple(f"{digit}-{color}" for color in ("red", "blue") for digit in range(5))
    return Data("tinted", *parts, classes)  # type: ignore[arg-type]


@lru_cache(maxsize=1)
def bright() -> Data:
    """`tinted` as a negative."""
    own = tinted()
    return Data("bright", (255 - own.train[0], own.train[1]), (255 - own.test[0], own.test[1]), own.classes)


def _tint(images: Images, labels: Labels, seed: int) -> tuple[Images, Labels]:
    """Each drawing once in red and once in blue, with noise of its own: labels `digit + 5 * is_blue`."""
    generator = np.random.default_rng([7, seed])
    made, numbers = [], []
    for color in (0, 1):
        for image, label in zip(images, labels, strict=True):
            large = np.asarray(Image.fromarray(image).resize((24, 24), Image.Resampling.BICUBIC), np.float64)
            tint = np.array([0.9, 0.45, 0.15]) if color == 0 else np.array([0.15, 0.45, 0.9])
            pixels = (
                40
                + large[..., None] * tint * generator.uniform(0.7, 0.85)
                + generator.normal(0, 6, (24, 24, 3))
            )
            made.append(np.clip(pixels, 0, 255).astype(np.uint8))
            numbers.append(label + 5 * color)
    order = generator.permutation(len(made))
    return np.array(made)[order], np.array(numbers, np.int64)[order]


# --- networks -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Net:
    """What it is built from. Pixels become `(x * scale - mean) / std` before it, unless it takes uint8."""

    data: str = "tinted"
    seed: int = 0
    width: int = 24
    kernel: int = 5
    stride: int = 2
    depth: int = 1
    grid: int = 4
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)
    sharpness: float = 8.0
    """Of the logits."""
    binary: bool = False
    """Every weight of a filter as large as the largest."""
    fewest: int | None = None
    """Learn from so few images only: a poor model."""

    @property
    def source(self) -> Data:
        return {"gray": gray, "tinted": tinted, "bright": bright}[self.data]()

    def values(self, count: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation, one a channel."""
        wide = [one * count if len(one) == 1 else one for one in (self.mean, self.std)]
        return wide[0], wide[1]

    def preprocess(self) -> dict[str, Any]:
        """As the audit's YAML has it."""
        return {"scale": self.scale, "mean": list(self.mean), "std": list(self.std)}

    def inputs(self, images: Images) -> Array:
        mean, std = self.values(images.shape[3])
        x = (images.astype(np.float32) * np.float32(self.scale) - np.float32(mean)) / np.float32(std)
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


@dataclass
class Graph:
    """A graph in the making: nodes from `input` to `logits`, and weights by name."""

    shape: tuple[int, int, int]
    """(C, H, W)."""
    num_classes: int
    nodes: list[Any] = field(default_factory=list)
    weights: dict[str, Array] = field(default_factory=dict)
    batch: str | int = "batch"

    def model(self) -> Any:
        graph = helper.make_graph(
            self.nodes,
            "graph",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, [self.batch, *self.shape])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [self.batch, self.num_classes])],
            [numpy_helper.from_array(value, name) for name, value in self.weights.items()],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
        onnx.checker.check_model(made)
        return made

    def copy(self) -> Graph:
        return replace(self, nodes=copy.deepcopy(self.nodes), weights=dict(self.weights))

    def save(self, path: Path) -> Path:
        path.write_bytes(self.model().SerializeToString())
        return path


@lru_cache(maxsize=64)
def _built(net: Net) -> Graph:
    data = net.source
    height, width, channels = data.shape
    graph = Graph((channels, height, width), len(data.classes))
    features = _convolutions(net, graph, channels)
    images, labels = (part[: net.fewest] for part in data.train)
    found = _run(graph, features, net.inputs(images))
    weight, bias = _ridge(found, labels, graph.num_classes)
    graph.weights |= {"fc": weight * np.float32(net.sharpness), "bias": bias * np.float32(net.sharpness)}
    graph.nodes.append(helper.make_node("Gemm", [features, "fc", "bias"], ["logits"], "fc", transB=1))
    return graph


def built(net: Net) -> Graph:
    """A copy of the network, which may be spoiled."""
    return _built(net).copy()


def _convolutions(net: Net, graph: Graph, channels: int) -> str:
    generator = np.random.default_rng([1, net.seed])
    value, inner = "input", channels
    for layer in range(net.depth):
        kernel = net.kernel if layer == 0 else 3
        shape = (net.width, inner, kernel, kernel)
        graph.weights[f"w{layer}"] = (
            generator.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        ).astype(np.float32)
        if net.binary:
            graph.weights[f"w{layer}"] = np.sign(graph.weights[f"w{layer}"]) * np.float32(0.1)
        graph.weights[f"b{layer}"] = (generator.standard_normal(net.width) * 0.2).astype(np.float32)
        stride = net.stride if layer == 0 else 1
        graph.nodes.append(
            helper.make_node(
                "Conv",
                [value, f"w{layer}", f"b{layer}"],
                [f"c{layer}"],
                f"conv{layer}",
                pads=[kernel // 2] * 4,
                strides=[stride, stride],
            )
        )
        graph.nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"], f"relu{layer}"))
        value, inner = f"r{layer}", net.width
    side = -(-graph.shape[1] // net.stride) // net.grid
    graph.nodes.append(
        helper.make_node(
            "AveragePool", [value], ["pooled"], "pool", kernel_shape=[side, side], strides=[side, side]
        )
    )
    graph.nodes.append(helper.make_node("Flatten", ["pooled"], ["features"], "flatten"))
    return "features"


def _run(graph: Graph, value: str, inputs: Array) -> Array:
    """The inner value for many inputs."""
    made = helper.make_graph(
        graph.nodes,
        "part",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", *graph.shape])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, ["batch", "features"])],
        [numpy_helper.from_array(one, name) for name, one in graph.weights.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    return session(model).run(None, {"input": inputs})[0]  # type: ignore[no-any-return]


def _ridge(features: Array, labels: Labels, num_classes: int) -> tuple[Array, Array]:
    """Weight `[classes, F]` and bias of the least squares to one-hot targets."""
    mean = features.mean(axis=0)
    x = (features - mean).astype(np.float64)
    y = np.eye(num_classes)[labels] - 1 / num_classes
    penalty = 1e-3 * np.trace(x.T @ x) / x.shape[1]
    weight = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y).T
    return weight.astype(np.float32), (-weight @ mean).astype(np.float32)


def session(model: Any, *, level: str | None = None) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if level == "none":
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def accuracy(model: Any, net: Net, *, images: Images | None = None) -> float:
    """Of a model with the net's own door, on the test half, one image at a time as it is measured."""
    own, labels = net.source.test
    x = net.inputs(own if images is None else images)
    run = session(model)
    name = run.get_inputs()[0].name
    answers = [run.run(None, {name: x[row : row + 1]})[0].argmax() for row in range(len(x))]
    return float((np.array(answers) == labels).mean())


# --- data on disk -------------------------------------------------------------------------------------------


def save_folder(
    folder: Path, images: Sequence[Images] | Images, labels: Labels, classes: Sequence[str]
) -> Path:
    """`<class>/<number>.png`."""
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        below = folder / classes[int(label)]
        below.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(below / f"{number:05d}.png")
    return folder


def save_npz(path: Path, images: Images, labels: Labels, classes: Sequence[str], **more: Array) -> Path:
    np.savez(path, images=images, labels=labels, classes=np.array(classes), **more)
    return path
