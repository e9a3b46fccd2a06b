"""How an image of any size becomes one of a model's input size."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from edgekd.core.config import Config
from edgekd.data.decode import Resample, resize
from edgekd.data.split import Image

Fit = Literal["stretch", "crop", "pad"]


class Fitting(Config):
    """The rule. `crop` scales the image so that the wanted size is `crop_share` of it and takes the middle
    (0.875: shorter side to 256, then 224); `pad` keeps the whole image on black; `stretch` ignores the
    aspect ratio."""

    size: tuple[int, int]
    channels: Literal[1, 3]
    fit: Fit = "stretch"
    resize: Resample = "bilinear"
    crop_share: float = 0.875
    bgr: bool = False

    def apply(self, image: Image) -> npt.NDArray[np.uint8]:
        """uint8 `[H, W, 1 or 3]` to uint8 `[*size, channels]`."""
        fitted = {"stretch": self._stretch, "crop": self._crop, "pad": self._pad}[self.fit](image)
        return np.ascontiguousarray(fitted[:, :, ::-1]) if self.bgr else fitted

    def _stretch(self, image: Image) -> npt.NDArray[np.uint8]:
        return resize(image, self.size, self.channels, self.resize)

    def _crop(self, image: Image) -> npt.NDArray[np.uint8]:
        height, width = self.size
        scale = max(height / self.crop_share / image.shape[0], width / self.crop_share / image.shape[1])
        whole = self._resized(image, scale, at_least=self.size)
        top, left = round((whole.shape[0] - height) / 2), round((whole.shape[1] - width) / 2)
        return np.ascontiguousarray(whole[top : top + height, left : left + width])

    def _pad(self, image: Image) -> npt.NDArray[np.uint8]:
        height, width = self.size
        scale = min(height / image.shape[0], width / image.shape[1])
        whole = self._resized(image, scale, at_least=(1, 1))[:height, :width]
        padded = np.zeros((height, width, self.channels), np.uint8)
        top, left = (height - whole.shape[0]) // 2, (width - whole.shape[1]) // 2
        padded[top : top + whole.shape[0], left : left + whole.shape[1]] = whole
        return padded

    def _resized(self, image: Image, scale: float, *, at_least: tuple[int, int]) -> npt.NDArray[np.uint8]:
        size = tuple(
            max(least, round(side * scale)) for side, least in zip(image.shape[:2], at_least, strict=True)
        )
        return resize(image, (size[0], size[1]), self.channels, self.resize)
