"""What every data set must satisfy, whichever source it came from."""

from __future__ import annotations

import unicodedata
from dataclasses import replace

import numpy as np

from edgekd.core.errors import DataError
from edgekd.data.split import Dataset, Split

IMBALANCE_RATIO = 10
MAX_SIDE = 4096
_LISTED = 10


def check(dataset: Dataset, where: str) -> Dataset:
    """The data set with the notes that follow from its numbers.

    Raises `DataError` for fewer than two classes, a class name that is not one line or stands twice, an empty
    split, labels out of range, a class that train does not hold, or images that are neither gray nor RGB or
    of an absurd size.
    """
    if len(dataset.classes) < 2:
        raise DataError(
            f"found {len(dataset.classes)} class ({_names(dataset.classes)}); at least two are needed",
            where=where,
        )
    _check_names(dataset.classes, where)
    splits = (dataset.train, dataset.val, dataset.calibration, dataset.test)
    for split in splits:
        _check_split(split, dataset, where)
    _check_classes_in_train(dataset, where)
    notes = [_note_imbalance(dataset), *(_note_absent(s, dataset) for s in (dataset.val, dataset.test))]
    return replace(dataset, notes=(*dataset.notes, *(note for note in notes if note)))


def _check_names(classes: tuple[str, ...], where: str) -> None:
    """A bundle's labels.txt has one name a line, and a terminal shows them."""
    for name in classes:
        if name.splitlines() != [name] or any(unicodedata.category(c) == "Cc" for c in name):
            raise DataError(
                f"{name!r} cannot be the name of a class: it is not one line of text", where=where
            )
        if classes.count(name) > 1:
            raise DataError(f"two classes are called `{name}`", where=where)


def check_labels(labels: np.ndarray[tuple[int], np.dtype[np.int64]], num_classes: int, where: str) -> None:
    """Raises `DataError` naming the first labels outside 0..num_classes-1 and where they stand."""
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        shown = ", ".join(f"{labels[row]} (image {row})" for row in wrong[:_LISTED])
        raise DataError(
            f"{len(wrong)} labels are outside 0..{num_classes - 1}: {shown}",
            where=where,
            fix="number the classes from 0, without gaps",
        )


def _check_split(split: Split, dataset: Dataset, where: str) -> None:
    where = f"{where}, split `{split.name}`"
    if len(split) == 0:
        raise DataError("has no images", where=where, fix="give more images or another share")
    if len(split.images) != len(split.labels):
        raise DataError(f"{len(split.images)} images but {len(split.labels)} labels", where=where)
    check_labels(split.labels, len(dataset.classes), where)
    (image,) = split.images.get([0])
    if image.ndim != 3 or image.shape[2] not in (1, 3) or image.dtype != np.uint8:
        raise DataError(f"images are {image.dtype} {image.shape}, not uint8 [H, W, 1 or 3]", where=where)
    if not 1 <= min(image.shape[:2]) <= max(image.shape[:2]) <= MAX_SIDE:
        raise DataError(f"images of {image.shape[0]}x{image.shape[1]} pixels", where=where)


def _check_classes_in_train(dataset: Dataset, where: str) -> None:
    absent = _absent(dataset.train, dataset)
    if absent:
        raise DataError(
            f"train has no image of {len(absent)} classes: {_names(absent)}",
            where=where,
            fix="add images of them or remove the classes",
        )


def _absent(split: Split, dataset: Dataset) -> tuple[str, ...]:
    counts = np.bincount(split.labels, minlength=len(dataset.classes))
    return tuple(dataset.classes[label] for label in np.flatnonzero(counts == 0))


def _note_absent(split: Split, dataset: Dataset) -> str | None:
    absent = _absent(split, dataset)
    if not absent:
        return None
    return f"{split.name} has no image of {len(absent)} classes: {_names(absent)}"


def _note_imbalance(dataset: Dataset) -> str | None:
    counts = np.bincount(dataset.train.labels, minlength=len(dataset.classes))
    if counts.max() <= IMBALANCE_RATIO * counts.min():
        return None
    most, least = int(counts.argmax()), int(counts.argmin())
    return (
        f"imbalanced: train has {counts[most]} images of `{dataset.classes[most]}` and "
        f"{counts[least]} of `{dataset.classes[least]}`; look at macro and worst-class recall"
    )


def _names(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:_LISTED])
    return shown if len(names) <= _LISTED else f"{shown} and {len(names) - _LISTED} more"
