"""Reads somebody else's labeled images whole, for evaluation only: nothing is held out, nothing resized.

A folder `<class>/<image>` (or one with such folders below `test` or `val`); an .npz file with `images` and
`labels` or `x_test` and `y_test`; a folder with images.npy and labels.npy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.core.digest import of_file
from edgekd.core.errors import DataError
from edgekd.data.array_images import ArrayImages
from edgekd.data.decode import decode_file
from edgekd.data.evaluation import IMAGES, LABELS
from edgekd.data.folder_layout import SPLIT_FOLDERS, read_layout
from edgekd.data.npz import names_in, read_npz
from edgekd.data.paths import existing_file
from edgekd.data.split import Image, Split

EXPECTED = (
    "a folder `<class>/<image>`, or one with `test/<class>/<image>`",
    "a folder with images.npy (uint8 [N, H, W, C]) and labels.npy (integers [N])",
    "an .npz file with `images` and `labels`, or `x_test` and `y_test`",
    "a recipe (.yaml), for its test images",
)
_PAIRS = (("images", "labels"), ("x_test", "y_test"), ("x", "y"))
_TRAINING = (("x_train", "y_train"), *_PAIRS)
_CLASSES = "classes"
_MAX_BYTES = 8 << 30


@dataclass(frozen=True)
class Labeled:
    """Images with the numbers of their classes. `classes` is None where the labels are numbers alone."""

    split: Split
    classes: tuple[str, ...] | None
    notes: tuple[str, ...] = ()


class Files:
    """Image files, decoded on demand at their own size; the fingerprint of each is that of its bytes."""

    def __init__(self, paths: Sequence[Path], channels: int) -> None:
        self._paths, self._channels = paths, channels

    def __len__(self) -> int:
        return len(self._paths)

    def get(self, indices: Sequence[int]) -> list[Image]:
        """Raises `DataError` naming a file that cannot be decoded."""
        return [decode_file(self._paths[index], self._channels) for index in indices]

    def take(self, rows: npt.NDArray[np.int64]) -> Files:
        return Files([self._paths[row] for row in rows], self._channels)

    def fingerprint(self, index: int) -> bytes:
        return bytes.fromhex(of_file(self._paths[index]))


def read_labeled(given: str, channels: int, *, training: bool = False) -> Labeled:
    """The images at a path, decoded to `channels` (1 or 3); those of its training part where `training`.

    Raises `DataError` listing what was expected.
    """
    path = Path(given).expanduser()
    if path.is_file() and path.suffix == ".npz":
        return _npz(path, _TRAINING if training else _PAIRS)
    if path.is_dir() and (path / IMAGES).is_file():
        return _pair(path)
    if path.is_dir():
        return _folder(path, channels, training=training)
    if path.exists():
        raise DataError("nothing here reads such a file", where=given, choices=EXPECTED)
    raise DataError("does not exist", where=given, choices=EXPECTED)


def _folder(path: Path, channels: int, *, training: bool) -> Labeled:
    root, notes = _training_part(path) if training else _evaluation_part(path)
    layout = read_layout(root, str(root))
    parts = list(layout.parts.values())
    if len(parts) > 1:
        raise DataError("holds several splits", where=str(root), fix=f"name one: {root}/test")
    listing = parts[0]
    images = Files([root / name for name in listing.names], channels)
    split = Split("test", images, np.array(listing.labels, np.int64), listing.names)
    return Labeled(split, layout.classes, (*notes, *layout.notes))


def _evaluation_part(path: Path) -> tuple[Path, tuple[str, ...]]:
    """Where the class folders are: below `test`, else below `val`, else here."""
    try:
        folders = {
            p.name.lower(): p for p in path.iterdir() if p.is_dir() and any(q.is_dir() for q in p.iterdir())
        }
    except OSError as error:
        raise DataError(f"cannot list: {error}", where=str(path)) from error
    for split in ("test", "val"):
        for name in SPLIT_FOLDERS[split]:
            if name in folders:
                return folders[name], (f"the images below `{folders[name].name}` were used",)
    for name in SPLIT_FOLDERS["train"]:
        if name in folders:
            raise DataError(
                f"holds `{name}` and neither `test` nor `val`: a model is not judged by what it learned from",
                where=str(path),
                fix=f"if these are test images all the same: --data {folders[name]}",
            )
    return path, ()


def _training_part(path: Path) -> tuple[Path, tuple[str, ...]]:
    parts = (path / name for name in SPLIT_FOLDERS["train"])
    return next((part for part in parts if part.is_dir()), path), ()


def _npz(path: Path, pairs: Sequence[tuple[str, str]]) -> Labeled:
    inside = names_in(path)
    pair = next((pair for pair in pairs if set(pair) <= set(inside)), None)
    if pair is None:
        raise DataError(f"holds {', '.join(inside) or 'nothing'}", where=str(path), choices=EXPECTED)
    arrays = read_npz(path, [*pair, _CLASSES], _MAX_BYTES)
    classes = tuple(map(str, arrays[_CLASSES])) if _CLASSES in arrays else None
    return _labeled(arrays[pair[0]], arrays[pair[1]], classes, str(path))


def _pair(path: Path) -> Labeled:
    images, labels = (_array(existing_file(path / name, str(path))) for name in (IMAGES, LABELS))
    names = path / "classes.txt"
    classes = tuple(names.read_text(encoding="utf-8").splitlines()) if names.is_file() else None
    return _labeled(images, labels, classes, str(path))


def _array(path: Path) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"not a readable .npy file: {error}", where=str(path)) from error
    return array


def _labeled(
    images: npt.NDArray[Any], labels: npt.NDArray[Any], classes: tuple[str, ...] | None, where: str
) -> Labeled:
    if images.ndim == 3:
        images = images[..., None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3) or len(images) == 0:
        raise DataError(
            f"images are {images.dtype} {list(images.shape)}, not uint8 [N, H, W] or [N, H, W, 1 or 3]",
            where=where,
            fix="pixels 0..255 as uint8 with the channels last, not preprocessed",
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"labels are {labels.dtype} {list(labels.shape)}, not integers [N]", where=where)
    if len(labels) != len(images):
        raise DataError(f"{len(labels)} labels for {len(images)} images", where=where)
    if labels.min() < 0 or (classes is not None and labels.max() >= len(classes)):
        most = "" if classes is None else f" and below {len(classes)}"
        raise DataError(
            f"labels are {labels.min()}..{labels.max()}, not from 0 on{most}",
            where=where,
            fix="number from 0",
        )
    return Labeled(Split("test", ArrayImages(images), labels.astype(np.int64)), classes)
