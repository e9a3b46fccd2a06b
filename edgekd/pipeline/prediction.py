"""Classifies image files with a bundle's artifact, through the runtime that it ships for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.core.errors import DataError, ModelError, UsageError
from edgekd.core.preprocess import Preprocess
from edgekd.data.decode import decode_file, resize
from edgekd.measure.probes import predict
from edgekd.pipeline.bundle import Bundle
from edgekd.targets.local import LocalTarget

_CHUNK = 256
_SHOWN = 20


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of one image, best first, each with its share of the softmax."""

    file: Path
    classes: tuple[tuple[str, float], ...]

    def as_data(self) -> dict[str, Any]:
        classes = [{"label": label, "share": share} for label, share in self.classes]
        return {"file": str(self.file), "classes": classes}


def predict_files(bundle: Bundle, images: Sequence[Path], top: int = 1) -> list[Prediction]:
    """The `top` classes of every image, on this machine.

    Images are turned as their EXIF orientation says and resized to the bundle's input. Raises `DataError`
    naming every file that cannot be decoded, before any is classified; `ModelError` for a graph that the
    runtime refuses or whose logits do not fit the bundle's labels.
    """
    if not images or top < 1:
        raise UsageError("name at least one image, and at least one class to show")
    pixels = _decoded(images, bundle.preprocess)
    shares = np.concatenate([softmax(logits) for logits in _logits(bundle, pixels)])
    return [
        Prediction(file, _best(row, bundle.manifest.labels, top))
        for file, row in zip(images, shares, strict=True)
    ]


def softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """`[N, C]` to shares `[N, C]` that add up to 1 per row."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    shares: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def _decoded(files: Sequence[Path], preprocess: Preprocess) -> list[npt.NDArray[np.uint8]]:
    """uint8 `[H, W, C]` of the model's input size for each file; all problems at once."""
    decoded, problems = [], []
    channels = preprocess.num_channels
    for file in files:
        try:
            image = decode_file(file, channels)
        except DataError as error:
            problems.append(str(error))
        else:
            decoded.append(resize(image, preprocess.size, channels, preprocess.resize))
    if problems:
        more = [f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise DataError("\n  ".join([*problems[:_SHOWN], *more]), fix="leave these files out")
    return decoded


def _logits(bundle: Bundle, pixels: Sequence[npt.NDArray[np.uint8]]) -> Iterator[npt.NDArray[np.float32]]:
    target = LocalTarget(name="local")
    for start in range(0, len(pixels), _CHUNK):
        images = np.stack(pixels[start : start + _CHUNK])
        logits = predict(bundle.graph, images, bundle.preprocess, target, backend=bundle.backend)
        if logits.shape[1] != len(bundle.manifest.labels) or not np.isfinite(logits).all():
            raise ModelError(
                f"the graph gives {logits.shape[1]} logits per image (all finite: "
                f"{bool(np.isfinite(logits).all())}) for {len(bundle.manifest.labels)} labels",
                where=str(bundle.graph),
            )
        yield logits


def _best(shares: npt.NDArray[np.float64], labels: Sequence[str], top: int) -> tuple[tuple[str, float], ...]:
    order = np.argsort(-shares, kind="stable")[:top]
    return tuple((labels[index], float(shares[index])) for index in order)
