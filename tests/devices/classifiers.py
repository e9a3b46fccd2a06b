"""One small network of handwritten digits as artifacts: float, with 8-bit and with 7-bit weights.

Black on white: bright pixels times large weights are what overflows on processors without VNNI.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgekd.backends.onnx.export import export
from edgekd.backends.source import Source
from edgekd.core.preprocess import Preprocess
from edgekd.quant.prepare import calibrate, finalize, prepare
from edgekd.quant.settings import QuantSettings
from tests.quant.digits import MEAN, SIZE, STD, Digits, digits, logits_of, network, train

NUM_IMAGES = 512
STEPS = 120
SPEC = """
labels: ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
protocol: smoke
"""
"""What `edgekd audit` has to know of each of them."""

Answers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Classifiers:
    """Files in `folder`: fp32.onnx, int8.onnx, int7.onnx, the folder `data` and spec.yaml.

    exact: artifact -> the answers `[N]` to the images that its arithmetic has where no sum overflows: torch's
    own, in float, of which the integers of a quantized network are all exactly representable.
    """

    folder: Path
    exact: dict[str, Answers]

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.onnx"


def make(folder: Path) -> Classifiers:
    """Train for some seconds, quantize, export; the images are uint8 `[512, 8, 8, 1]`."""
    white = digits()
    train_images, test_images = _inverted(white.train_images), _inverted(white.test_images)
    data = Digits(train_images, white.train_labels, test_images, white.test_labels)
    module = network()
    train(module, data, steps=STEPS, learning_rate=2e-3)
    images, labels = _as_pixels(data.test_images[:NUM_IMAGES]), data.test_labels[:NUM_IMAGES].numpy()
    _write(folder / "data", images, labels)
    (folder / "spec.yaml").write_text(SPEC)
    preprocess = Preprocess(size=(SIZE, SIZE), mean=(0,), std=(1,))
    x = torch.from_numpy(preprocess.apply(images))
    exact = {}
    for name, version in _versions(module, data):
        export(Source(version, (1, SIZE, SIZE)), folder / f"{name}.onnx")
        exact[name] = logits_of(version, x).argmax(1).numpy()
    return Classifiers(folder, exact)


def _versions(module: nn.Module, data: Digits) -> Iterator[tuple[str, nn.Module]]:
    yield "fp32", module
    for bits in (8, 7):
        quantized = prepare(module, QuantSettings(weight_bits=bits), data.train_images[:2])
        calibrate(quantized, list(torch.split(data.train_images[:512], 128)))
        finalize(quantized)
        yield f"int{bits}", quantized


def _inverted(images: Tensor) -> Tensor:
    """White on black and normalized, to black on white in [0, 1]."""
    return 1 - (images * STD + MEAN)


def _as_pixels(images: Tensor) -> npt.NDArray[np.uint8]:
    pixels = (images * 255).round().clamp(0, 255).to(torch.uint8)
    found: npt.NDArray[np.uint8] = pixels.permute(0, 2, 3, 1).contiguous().numpy()
    return found


def _write(folder: Path, images: npt.NDArray[np.uint8], labels: npt.NDArray[Any]) -> None:
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", labels)
    (folder / "classes.txt").write_text("".join(f"{number}\n" for number in range(10)))
