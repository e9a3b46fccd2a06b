"""The evaluation set that a device sees: one split as uint8 arrays of a model's input size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgekd.core.durable import replacing
from edgekd.core.preprocess import Preprocess
from edgekd.data.array_images import ArrayImages
from edgekd.data.decode import resize
from edgekd.data.split import Image, Split

IMAGES = "images.npy"
LABELS = "labels.npy"
_CHUNK = 512


def evaluation_arrays(
    split: Split, preprocess: Preprocess
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images uint8 `[N, H, W, C]` of the preprocessing's size and channels, and labels int64 `[N]`.

    Resized by Pillow with the preprocessing's filter (antialiased when shrinking).
    """
    shape = _shape(preprocess)
    if isinstance(split.images, ArrayImages) and split.images.shape == shape:
        return split.images.array(), split.labels
    images = np.empty((len(split), *shape), np.uint8)
    for start, chunk in _resized(split, preprocess):
        images[start : start + len(chunk)] = chunk
    return images, split.labels


def write_evalset(split: Split, preprocess: Preprocess, folder: Path) -> tuple[str, str]:
    """Write `images.npy` and `labels.npy` into `folder`, chunk by chunk, and return the two names."""

    def fit(image: Image) -> npt.NDArray[np.uint8]:
        return resize(image, preprocess.size, preprocess.num_channels, preprocess.resize)

    return write_fitted(split, _shape(preprocess), fit, folder)


def write_fitted(
    split: Split, shape: tuple[int, int, int], fit: Callable[[Image], npt.NDArray[np.uint8]], folder: Path
) -> tuple[str, str]:
    """`write_evalset` by a rule of the caller's, which makes every image one of `shape` (H, W, C)."""
    folder.mkdir(parents=True, exist_ok=True)
    # Written as a stream: a memory map on a disk that fills up kills the process instead of raising.
    with replacing(folder / IMAGES) as temporary, temporary.open("wb") as stream:
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(split), *shape)}
        np.lib.format.write_array_header_1_0(stream, header)
        for _, images in _chunks(split):
            stream.write(np.stack([fit(image) for image in images]).tobytes())
    with replacing(folder / LABELS) as temporary, temporary.open("wb") as stream:
        np.save(stream, split.labels.astype(np.int64), allow_pickle=False)
    return IMAGES, LABELS


def _shape(preprocess: Preprocess) -> tuple[int, int, int]:
    return (*preprocess.size, preprocess.num_channels)


def _resized(split: Split, preprocess: Preprocess) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    for start, images in _chunks(split):
        yield (
            start,
            np.stack(
                [resize(i, preprocess.size, preprocess.num_channels, preprocess.resize) for i in images]
            ),
        )


def _chunks(split: Split) -> Iterator[tuple[int, list[Image]]]:
    for start in range(0, len(split), _CHUNK):
        yield start, split.images.get(range(start, min(start + _CHUNK, len(split))))
