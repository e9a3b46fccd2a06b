"""Images that stay files: decoded on demand, with a small cache, and refused if they changed meanwhile."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgekd.core.errors import DataError
from edgekd.data.array_images import ArrayImages
from edgekd.data.decode import decode_file, resize
from edgekd.data.folder_scan import Scan
from edgekd.data.split import Image, fingerprint

Rows = npt.NDArray[np.int64]

CACHE_BYTES = 64 << 20


class ImageFiles:
    """Decodes files to uint8 `[*size, channels]`; safe to use from several threads."""

    def __init__(
        self, paths: Sequence[Path], fingerprints: Sequence[bytes], size: tuple[int, int], channels: int
    ) -> None:
        self._paths = paths
        self.fingerprints = fingerprints
        self._size = size
        self._channels = channels
        self._cache: OrderedDict[int, Image] = OrderedDict()
        self._capacity = max(1, CACHE_BYTES // (size[0] * size[1] * channels))
        self._lock = threading.Lock()

    def image(self, index: int) -> Image:
        """Raises `DataError` when the file is not what it was when the data set was opened."""
        with self._lock:
            if index in self._cache:
                self._cache.move_to_end(index)
                return self._cache[index]
        image = resize(decode_file(self._paths[index], self._channels), self._size, self._channels)
        if fingerprint(image) != self.fingerprints[index]:
            raise DataError(
                "the image changed while the data set was in use",
                where=str(self._paths[index]),
                fix="run again; steps that depend on the images are then made anew",
            )
        self._keep(index, image)
        return image

    def _keep(self, index: int, image: Image) -> None:
        with self._lock:
            self._cache[index] = image
            while len(self._cache) > self._capacity:
                self._cache.popitem(last=False)


class FileImages:
    """Rows of `files` as the images of one split."""

    def __init__(self, files: ImageFiles, rows: Rows) -> None:
        self._files = files
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, indices: Sequence[int]) -> list[Image]:
        return [self._files.image(int(self._rows[index])) for index in indices]

    def take(self, rows: Rows) -> FileImages:
        return FileImages(self._files, self._rows[rows])

    def fingerprint(self, index: int) -> bytes:
        return self._files.fingerprints[int(self._rows[index])]


def scanned_images(
    paths: Sequence[Path], scanned: Scan, size: tuple[int, int], channels: int
) -> ArrayImages | FileImages:
    """The images of a scan of `paths`: its pixels where it kept them, else the files."""
    if scanned.pixels is not None:
        return ArrayImages(scanned.pixels)
    files = ImageFiles(paths, scanned.fingerprints, size, channels)
    return FileImages(files, np.arange(len(paths)))
