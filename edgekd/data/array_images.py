"""Images that lie decoded in memory: rows of one uint8 array."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgekd.data.split import Image

Rows = npt.NDArray[np.int64]


class ArrayImages:
    """Rows of `pixels`, uint8 `[N, H, W, C]`; parts of one array share its memory."""

    def __init__(self, pixels: npt.NDArray[np.uint8], rows: Rows | None = None) -> None:
        self._pixels = pixels
        self._rows = rows

    def __len__(self) -> int:
        return len(self._pixels) if self._rows is None else len(self._rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of every image."""
        _, height, width, channels = self._pixels.shape
        return height, width, channels

    def get(self, indices: Sequence[int]) -> list[Image]:
        rows = indices if self._rows is None else self._rows[np.asarray(indices, np.int64)]
        return [self._pixels[row] for row in rows]

    def take(self, rows: Rows) -> ArrayImages:
        return ArrayImages(self._pixels, rows if self._rows is None else self._rows[rows])

    def array(self) -> npt.NDArray[np.uint8]:
        """All of them, uint8 `[n, H, W, C]`; a copy only where the rows are a part."""
        return self._pixels if self._rows is None else self._pixels[self._rows]
