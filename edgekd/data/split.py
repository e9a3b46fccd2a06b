"""What a data set is to the rest of edgekd: explicit splits of uint8 images with labels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from edgekd.core.classes import places
from edgekd.core.digest import of_data
from edgekd.core.errors import DataError

Image = npt.NDArray[np.uint8]
"""One image, `[H, W, C]`, C in {1, 3}."""


UNLABELED = "unlabeled"
"""The split of images without labels, and the stream that they come from in training."""

_CHUNK = 1024


class Images(Protocol):
    """Random access to the decoded images of one split."""

    def __len__(self) -> int: ...

    def get(self, indices: Sequence[int]) -> list[Image]:
        """The images at `indices`; their sizes may differ."""
        ...

    def take(self, rows: npt.NDArray[np.int64]) -> Images:
        """The images in these rows alone."""
        ...


@runtime_checkable
class Fingerprinted(Protocol):
    """Images that already know the fingerprint of each, so that a digest decodes nothing."""

    def fingerprint(self, index: int) -> bytes: ...


def fingerprint(image: Image) -> bytes:
    """sha256 of one image's shape and pixels."""
    state = hashlib.sha256(repr(image.shape).encode())
    state.update(np.ascontiguousarray(image).data)
    return state.digest()


@dataclass(frozen=True)
class Split:
    """One split: images, labels int64 `[N]` and, where images are files, their names."""

    name: str
    images: Images
    labels: npt.NDArray[np.int64]
    ids: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def renumbered(self, numbers: npt.NDArray[np.int64]) -> Split:
        """Every image with the label `numbers[label]`, those left out where that is negative."""
        labels = numbers[self.labels]
        rows = np.flatnonzero(labels >= 0)
        ids = tuple(self.ids[row] for row in rows) if self.ids is not None else None
        return Split(self.name, self.images.take(rows), labels[rows], ids)

    def digest(self) -> str:
        """sha256 over the fingerprint and the label of every image, in order."""
        state = hashlib.sha256(np.ascontiguousarray(self.labels, "<i8").data)
        for one in _fingerprints(self.images):
            state.update(one)
        return state.hexdigest()


def _fingerprints(images: Images) -> Iterator[bytes]:
    if isinstance(images, Fingerprinted):
        yield from (images.fingerprint(index) for index in range(len(images)))
        return
    for start in range(0, len(images), _CHUNK):
        yield from map(fingerprint, images.get(range(start, min(start + _CHUNK, len(images)))))


@dataclass(frozen=True)
class Dataset:
    """Four splits over the same classes, and further images without labels where the recipe names some.

    Calibration is a seeded, unaugmented part of train.
    """

    train: Split
    val: Split
    calibration: Split
    test: Split
    classes: tuple[str, ...]
    channels: int
    image_size: tuple[int, int]
    """(height, width) that training works at; images of other sizes are resized to it."""
    notes: tuple[str, ...] = ()
    """What a reader of the report should know: imbalance, near-duplicates kept together ..."""
    unlabeled: Split | None = None
    """Further images, all labeled -1; none of them is in val, calibration or test."""

    @property
    def splits(self) -> tuple[Split, ...]:
        """The four splits, and the unlabeled images where there are any."""
        labeled = (self.train, self.val, self.calibration, self.test)
        return labeled if self.unlabeled is None else (*labeled, self.unlabeled)

    def split(self, name: str) -> Split:
        return {s.name: s for s in self.splits}[name]

    def of_classes(self, own: tuple[str, ...]) -> Dataset:
        """The labeled images of these classes alone, numbered in this order.

        Raises `UsageError` for a class that the data lack, `DataError` where train or val has no such image.
        """
        numbers = np.full(len(self.classes), -1, np.int64)
        numbers[list(places(own, self.classes))] = np.arange(len(own))
        train, val, calibration, test = (
            split.renumbered(numbers) for split in (self.train, self.val, self.calibration, self.test)
        )
        for split in (train, val):
            if len(split) == 0:
                raise DataError(f"no image of the classes {', '.join(own)}", where=split.name)
        return replace(self, classes=own, train=train, val=val, calibration=calibration, test=test)

    def digest(self) -> str:
        """sha256 over the content of all splits, the class names and the working size."""
        return of_data(
            {
                "splits": {s.name: s.digest() for s in self.splits},
                "classes": list(self.classes),
                "channels": self.channels,
                "image_size": list(self.image_size),
            }
        )
