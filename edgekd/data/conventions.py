"""Preprocessings that published weights commonly expect: what a wrong one is compared with."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from edgekd.core.preprocess import Preprocess

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def conventions(given: Preprocess) -> Iterator[tuple[str, Preprocess]]:
    """(words, preprocessing) for inputs of `given`'s size and channels; one of them may equal `given`."""
    channels = given.num_channels
    zeros, ones = (0.0,) * channels, (1.0,) * channels
    halves = (0.5,) * channels
    yield "inputs in [0, 1]", with_values(given, 1 / 255, zeros, ones)
    yield "inputs in [-1, 1]", with_values(given, 1 / 255, halves, halves)
    yield "inputs in [0, 255]", with_values(given, 1.0, zeros, ones)
    yield "inputs in [-128, 127]", with_values(given, 1.0, (128.0,) * channels, ones)
    if channels == 3:
        yield "ImageNet's mean and sd", with_values(given, 1 / 255, *IMAGENET)


def with_values(
    given: Preprocess, scale: float, mean: tuple[float, ...], std: tuple[float, ...]
) -> Preprocess:
    """`given` with other numbers."""
    return given.model_copy(update={"scale": scale, "mean": mean, "std": std})


def of_images(given: Preprocess, images: npt.NDArray[np.uint8]) -> Preprocess:
    """`given` with the mean and the standard deviation of each channel of uint8 images `[N, H, W, C]`."""
    pixels = images.reshape(-1, images.shape[3]).astype(np.float64) / 255
    mean = tuple(round(float(value), 6) for value in pixels.mean(axis=0))
    # A channel that is the same everywhere has no deviation to divide by.
    std = tuple(round(float(value), 6) or 1.0 for value in pixels.std(axis=0))
    return with_values(given, 1 / 255, mean, std)


def written(preprocess: Preprocess) -> str:
    """As a recipe or an audit's file has it."""
    return (
        f"preprocess: {{mean: {list(preprocess.mean)}, std: {list(preprocess.std)}, "
        f"scale: {preprocess.scale:.8g}}}"
    )
