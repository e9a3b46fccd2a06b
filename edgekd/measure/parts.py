"""An evaluation set cut into parts that fit a small device, and the logits gathered part by part.

Legend: N images, C classes.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.core.digest import of_file
from edgekd.core.durable import replacing
from edgekd.core.errors import DataError
from edgekd.measure.accuracy import Logits, read_array

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Part:
    """Images `start` to `stop` (not included) of a set; `digest` is that of their pixels."""

    number: int
    start: int
    stop: int
    digest: str


class Images:
    """images.npy, uint8 `[N, H, W, C]`, as parts of at most `most_bytes` and `most_images`."""

    def __init__(self, path: Path, folder: Path, *, most_bytes: int, most_images: int, batch: int) -> None:
        """`folder` takes the parts, one at a time, and the images to time with. Raises `DataError`."""
        self.path, self._folder, self._most_bytes = path, folder, most_bytes
        self._array = _mapped(path)
        row = max(1, self._array[:1].nbytes)
        self._fitting = max(1, most_bytes // row)
        step = max(1, min(self._fitting, most_images) // batch) * batch
        starts = range(0, len(self), step)
        self.parts = [self._part(number, start, step) for number, start in enumerate(starts)]

    def __len__(self) -> int:
        return len(self._array)

    def _part(self, number: int, start: int, step: int) -> Part:
        stop = min(start + step, len(self))
        whole = step >= len(self)
        return Part(number, start, stop, of_file(self.path) if whole else _digest(self._array[start:stop]))

    def file(self, part: Part) -> Path:
        """A .npy file with the images of `part`, until the next part's is asked for."""
        if len(self.parts) == 1:
            return self.path
        path = self._folder / f"part-{part.number}.npy"
        if not path.is_file():
            for other in self._folder.glob("part-*.npy"):
                other.unlink()
            np.save(path, self._array[part.start : part.stop], allow_pickle=False)
        return path

    def some(self) -> Path:
        """The images that times are taken with: all, or as many as one part may hold bytes."""
        if len(self) <= self._fitting:
            return self.path
        path = self._folder / "some.npy"
        if not path.is_file():
            np.save(path, self._array[: self._fitting], allow_pickle=False)
        return path


def _mapped(path: Path) -> Pixels:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"not a readable .npy file: {error}", where=str(path)) from error
    if not isinstance(array, np.ndarray) or array.ndim != 4 or array.dtype != np.uint8 or len(array) == 0:
        raise DataError("the images must be uint8 [N, H, W, C]", where=str(path))
    return array


def _digest(rows: npt.NDArray[Any]) -> str:
    """sha256 of an array's shape and content."""
    found = hashlib.sha256(f"{rows.dtype} {rows.shape}".encode())
    found.update(np.ascontiguousarray(rows).data)
    return found.hexdigest()


class GatheredLogits:
    """The logits float32 `[N, C]` of one subject; each part is known again by the digest of its rows."""

    def __init__(self, path: Path, parts: list[Part]) -> None:
        """`path` is the .npy file that they become; `path` with `.parts` holds them on the way."""
        self.path, self._parts = path, parts
        self._folder = path.with_name(path.name + ".parts")
        whole = _read(path)
        self._whole = whole if whole is not None and len(whole) == parts[-1].stop else None

    def holds(self, part: Part, digest: str) -> bool:
        """Whether the rows of `part` are here as they were when they had this digest."""
        rows = _read(self._file(part)) if self._whole is None else self._whole[part.start : part.stop]
        return rows is not None and _digest(rows) == digest

    @contextmanager
    def receiving(self, part: Part) -> Iterator[Path]:
        """A path to write the part's logits to, as .npy."""
        self._take_apart()
        with replacing(self._file(part)) as temporary:
            yield temporary

    def digest(self, part: Part) -> str:
        """Of the rows that were received."""
        return _digest(read_array(self._file(part)))

    def finish(self) -> Logits:
        """All rows in the order of the images, written to `path`; raises `DataError` if a part is missing."""
        if self._whole is None:
            self._whole = np.concatenate([read_array(self._file(part)) for part in self._parts])
            _save(self.path, self._whole)
        shutil.rmtree(self._folder, ignore_errors=True)
        return self._whole

    def _take_apart(self) -> None:
        """One part is to be another, so the whole is no more; the other parts stay."""
        if self._whole is not None:
            for part in self._parts:
                _save(self._file(part), self._whole[part.start : part.stop])
            self.path.unlink()
        self._whole = None

    def _file(self, part: Part) -> Path:
        return self._folder / f"{part.number}.npy"


def _save(path: Path, array: npt.NDArray[Any]) -> None:
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)


def _read(path: Path) -> npt.NDArray[Any] | None:
    """None for a file that is not there or is damaged."""
    try:
        return read_array(path)
    except DataError:
        return None
