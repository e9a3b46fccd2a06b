"""Decoding every file of an image folder once: pixels where memory allows, fingerprints, failures."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from edgekd.core.errors import DataError
from edgekd.data.decode import decode_file, read_size, resize
from edgekd.data.near_duplicates import THUMBNAIL_SIDE, thumbnail
from edgekd.data.split import fingerprint

T = TypeVar("T")
Rows = npt.NDArray[np.int64]

_LISTED = 10
_SIDE_STEP = 32
_LARGEST_DEFAULT_SIDE = 224


@dataclass(frozen=True)
class Failures:
    """Files that cannot be decoded: their numbers and what was wrong with each."""

    rows: tuple[int, ...]
    messages: tuple[str, ...]

    def summary(self) -> str:
        more = len(self.messages) - _LISTED
        lines = [*self.messages[:_LISTED], *([f"and {more} more"] if more > 0 else [])]
        return "\n    ".join([f"{len(self.messages)} images cannot be decoded:", *lines])


def decodable(failures: Failures, count: int, *, skip: bool, where: str) -> tuple[Rows, list[str]]:
    """The rows of `count` files that could be decoded, and a note on the others.

    Raises `DataError` for failures unless they may be skipped and leave something.
    """
    if failures.rows and not (skip and len(failures.rows) < count):
        raise DataError(
            failures.summary(),
            where=where,
            fix="repair or remove the files, or set `skip_undecodable: true`",
        )
    kept = np.setdiff1d(np.arange(count), np.array(failures.rows, np.int64))
    return kept, [failures.summary()] if failures.rows else []


@dataclass(frozen=True)
class Scan:
    """What one pass over N files found. `pixels` uint8 `[N, H, W, C]`, or None where it does not fit."""

    pixels: npt.NDArray[np.uint8] | None
    fingerprints: list[bytes]
    thumbnails: npt.NDArray[np.uint8]
    failures: Failures


def scan(paths: Sequence[Path], size: tuple[int, int], channels: int, memory_bytes: int) -> Scan:
    """Decode all `paths`, resized to `size` (height, width); failures are collected, not raised."""
    count = len(paths)
    fits = count * size[0] * size[1] * channels <= memory_bytes
    pixels = np.zeros((count, *size, channels), np.uint8) if fits else None
    fingerprints = [b""] * count
    thumbnails = np.zeros((count, THUMBNAIL_SIDE**2), np.uint8)

    def look(row: int) -> None:
        image = resize(decode_file(paths[row], channels), size, channels)
        fingerprints[row] = fingerprint(image)
        thumbnails[row] = thumbnail(image)
        if pixels is not None:
            pixels[row] = image

    _, failures = _each(look, range(count))
    return Scan(pixels, fingerprints, thumbnails, failures)


def working_size(paths: Sequence[Path]) -> tuple[tuple[int, int], Failures, str | None]:
    """The size to work at when none is given, from the headers alone, and a note if images differ.

    All alike: that size. Otherwise a square with the median of the shorter sides, rounded down to a multiple
    of 32 and kept within 32..224.
    """
    sizes, failures = _each(lambda row: read_size(paths[row]), range(len(paths)))
    if not sizes:
        return (_SIDE_STEP, _SIDE_STEP), failures, None
    common = Counter(sizes)
    if len(common) == 1:
        return sizes[0], failures, None
    side = int(median(min(size) for size in sizes)) // _SIDE_STEP * _SIDE_STEP
    side = min(max(side, _SIDE_STEP), _LARGEST_DEFAULT_SIDE)
    note = f"images of {len(common)} different sizes are stretched to {side}x{side}; set `size` for another"
    return (side, side), failures, note


def _each(function: Callable[[int], T], rows: Iterable[int]) -> tuple[list[T], Failures]:
    """Results in order and the rows that raised `DataError`. Pillow decodes outside the interpreter lock."""

    def attempt(row: int) -> tuple[int, list[T], str]:
        try:
            return row, [function(row)], ""
        except DataError as error:
            return row, [], str(error)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        outcomes = list(pool.map(attempt, rows))
    failed = [(row, message) for row, result, message in outcomes if not result]
    return (
        [value for _, result, _ in outcomes for value in result],
        Failures(tuple(row for row, _ in failed), tuple(message for _, message in failed)),
    )
