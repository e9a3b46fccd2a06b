"""A data set in one .npz file: images and labels by split, under fixed names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.core.errors import DataError
from edgekd.data.array_images import ArrayImages
from edgekd.data.assembling import Part, Plan, assemble
from edgekd.data.npz import names_in, read_npz
from edgekd.data.split import Dataset

_SPLITS = ("train", "val", "test")
_CLASSES = "classes"
_MAX_CLASSES = 100_000
_EXPECTED = "x_train, y_train, and optionally x_val, y_val, x_test, y_test, classes"

Arrays = dict[str, npt.NDArray[Any]]


def open_npz(path: Path, where: str, plan: Plan, max_bytes: int) -> Dataset:
    """The data set in the file; a val or test that it lacks is held out of train.

    Raises `DataError` for a truncated or hostile file, images that are not uint8 `[N, H, W]` or
    `[N, H, W, 1 or 3]`, labels that are not integers `[N]`, and all that `assemble` refuses.
    """
    wanted = [f"{axis}_{split}" for split in _SPLITS for axis in "xy"]
    arrays = read_npz(path, [*wanted, _CLASSES], max_bytes)
    parts = {split: _part(arrays, split, path) for split in _SPLITS}
    train = parts["train"]
    if train is None:
        inside = ", ".join(names_in(path)) or "(nothing)"
        raise DataError(f"no array `x_train`; it holds: {inside}", where=where, fix=f"save {_EXPECTED}")
    shape = _one_shape(parts, where)
    return assemble(
        where, plan, _class_names(arrays, where), shape, train=train, val=parts["val"], test=parts["test"]
    )


def _part(arrays: Arrays, split: str, path: Path) -> Part | None:
    images, labels = arrays.get(f"x_{split}"), arrays.get(f"y_{split}")
    if images is None and labels is None:
        return None
    if images is None or labels is None:
        lone = f"y_{split}" if images is None else f"x_{split}"
        raise DataError(f"`{lone}` stands alone: `x_{split}` and `y_{split}` go together", where=str(path))
    pixels = _check_images(images, f"{path}:x_{split}")
    numbers = _check_label_array(labels, len(pixels), f"{path}:y_{split}")
    return Part(ArrayImages(pixels), numbers)


def _check_images(images: npt.NDArray[Any], where: str) -> npt.NDArray[np.uint8]:
    if images.dtype != np.uint8:
        raise DataError(
            f"images are {images.dtype}, not uint8",
            where=where,
            fix="save pixels 0..255 as uint8, for example np.rint(x * 255).astype(np.uint8)",
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise DataError(
            f"images have shape {images.shape}, not [N, H, W], [N, H, W, 1] or [N, H, W, 3]",
            where=where,
            fix="put the channels last, for example x.transpose(0, 2, 3, 1)",
        )
    return np.ascontiguousarray(images)


def _check_label_array(labels: npt.NDArray[Any], count: int, where: str) -> npt.NDArray[np.int64]:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
        raise DataError(
            f"labels are {labels.dtype} {labels.shape}, not integers [N]",
            where=where,
            fix="save class numbers, not one-hot vectors or names",
        )
    if len(labels) != count:
        raise DataError(f"{len(labels)} labels for {count} images", where=where)
    return labels.astype(np.int64)


def _one_shape(parts: dict[str, Part | None], where: str) -> tuple[int, int, int]:
    shapes = {n: p.images.shape for n, p in parts.items() if p and isinstance(p.images, ArrayImages)}
    if len(set(shapes.values())) != 1:
        raise DataError(f"the splits differ in image shape: {shapes}", where=where)
    return shapes["train"]


def _class_names(arrays: Arrays, where: str) -> tuple[str, ...]:
    """The array `classes`, or the numbers up to the largest label in train."""
    if _CLASSES not in arrays:
        labels = arrays["y_train"]
        largest = int(labels.max()) if labels.size else -1
        if largest >= _MAX_CLASSES:
            raise DataError(f"the largest label is {largest}; labels number the classes from 0", where=where)
        return tuple(str(number) for number in range(largest + 1))
    names = arrays[_CLASSES]
    if names.dtype.kind != "U" or names.ndim != 1:
        raise DataError(f"`classes` is {names.dtype} {names.shape}, not text [K]", where=where)
    return tuple(map(str, names))
