"""Images without labels, from a folder of any structure, beside a data set that is there already."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgekd.core.errors import DataError
from edgekd.data.decode import SUFFIXES, resize
from edgekd.data.file_images import scanned_images
from edgekd.data.folder_layout import image_files
from edgekd.data.folder_scan import decodable, scan
from edgekd.data.paths import existing_folder
from edgekd.data.split import UNLABELED, Dataset, Fingerprinted, Split, fingerprint

UNKNOWN = -1
"""The label of every unlabeled image."""
MEMORY_BYTES = 1 << 30
"""Images that take more, decoded, stay files."""
_CHUNK = 1024


def with_unlabeled(dataset: Dataset, folder: Path, *, skip_undecodable: bool) -> Dataset:
    """The data set with the images below `folder` as `unlabeled`, decoded to its size and channels.

    What is an image of val, calibration or test, pixel for pixel at that size, is left out and counted in a
    note: it would be trained on and then judged by. Raises `DataError` for a folder without images, files
    that cannot be decoded (unless they may be skipped), and images that are all known from there.
    """
    where = f"`data.unlabeled` at {folder}"
    root = existing_folder(folder, where)
    paths = _images_below(root, where)
    scanned = scan(paths, dataset.image_size, dataset.channels, MEMORY_BYTES)
    kept, notes = decodable(scanned.failures, len(paths), skip=skip_undecodable, where=where)
    held_out = set(_held_out(dataset))
    new = np.array([row for row in kept if scanned.fingerprints[row] not in held_out], np.int64)
    if len(new) == 0:
        raise DataError("every image is also one of val, calibration or test", where=where)
    split = Split(
        UNLABELED,
        scanned_images(paths, scanned, dataset.image_size, dataset.channels).take(new),
        np.full(len(new), UNKNOWN, np.int64),
        tuple(paths[row].relative_to(root).as_posix() for row in new),
    )
    notes = [*(f"unlabeled: {note}" for note in notes), *_note_known(len(kept) - len(new))]
    return replace(dataset, unlabeled=split, notes=(*dataset.notes, *notes))


def _images_below(root: Path, where: str) -> list[Path]:
    try:
        paths = image_files(root)
    except OSError as error:
        raise DataError(f"cannot list: {error}", where=where) from error
    if not paths:
        raise DataError("holds no images", where=where, fix=f"known suffixes: {', '.join(sorted(SUFFIXES))}")
    return paths


def _note_known(count: int) -> Iterator[str]:
    if count:
        yield f"unlabeled: {count:,} images that are also in val, calibration or test were left out"


def _held_out(dataset: Dataset) -> Iterator[bytes]:
    """Fingerprints, at the working size, of the images that nothing may be learned from."""
    for split in (dataset.val, dataset.calibration, dataset.test):
        yield from _fingerprints(split, dataset.image_size, dataset.channels)


def _fingerprints(split: Split, size: tuple[int, int], channels: int) -> Iterator[bytes]:
    images, rows = split.images, range(len(split))
    if isinstance(images, Fingerprinted) and images.get([0])[0].shape == (*size, channels):
        yield from map(images.fingerprint, rows)
        return
    for start in rows[::_CHUNK]:
        chunk = images.get(rows[start : start + _CHUNK])
        yield from (fingerprint(resize(image, size, channels)) for image in chunk)
