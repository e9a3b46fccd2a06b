"""What a model expects of its input, as plain data, and the one NumPy definition of it.

Images travel as uint8 `[N, H, W, C]`; a model takes float32 `[N, C, H, W]`:

    x = (image * scale - mean) / std
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import model_validator

from edgekd.core.config import Config

LARGEST_SIDE = 8192
"""In pixels: a file that asks for more would only exhaust the memory."""


class Preprocess(Config):
    """A model's input: `size` is (height, width) in pixels; `mean` and `std` have one value per channel."""

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1 / 255
    resize: Literal["bilinear", "bicubic", "nearest"] = "bilinear"

    @model_validator(mode="after")
    def _consistent(self) -> Preprocess:
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise ValueError("mean and std need one value per channel, for 1 or 3 channels")
        if min(self.size) < 1 or min(self.std) <= 0 or self.scale <= 0:
            raise ValueError("size, std and scale must be positive")
        if max(self.size) > LARGEST_SIDE or not all(map(math.isfinite, (*self.mean, *self.std, self.scale))):
            raise ValueError(f"a side has at most {LARGEST_SIDE} pixels, and every number is finite")
        return self

    @property
    def num_channels(self) -> int:
        return len(self.mean)

    def apply(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 `[N, H, W, C]`, already of `size`, to float32 `[N, C, H, W]`."""
        x = images.astype(np.float32) * np.float32(self.scale)
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return np.ascontiguousarray(((x - mean) / std).transpose(0, 3, 1, 2))
