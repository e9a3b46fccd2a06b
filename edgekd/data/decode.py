"""Decoding and resizing one image with Pillow: the only place that turns image files into pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError

from edgekd.core.errors import DataError
from edgekd.data.split import Image

Resample = Literal["bilinear", "bicubic", "nearest"]

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""Pillow's other readers are refused: some (EPS) start programs, and none is a format of data sets."""

_ORIENTATION = 0x0112
_TURNED = frozenset({5, 6, 7, 8})
_FILTERS = {
    "bilinear": Pillow.Resampling.BILINEAR,
    "bicubic": Pillow.Resampling.BICUBIC,
    "nearest": Pillow.Resampling.NEAREST,
}


def read_size(path: Path) -> tuple[int, int]:
    """(height, width) after EXIF orientation, from the header alone.

    Raises `DataError` for what is not an image or declares too many pixels (a decompression bomb).
    """
    with _opened(path) as image:
        height, width = image.height, image.width
        try:
            turned = image.getexif().get(_ORIENTATION) in _TURNED
        except Exception as error:
            raise _undecodable(path, error) from error
    return (width, height) if turned else (height, width)


def decode_file(path: Path, channels: int) -> Image:
    """The pixels of an image file, uint8 `[H, W, channels]`, turned as its EXIF orientation says.

    Only the first frame of an animation is read, and an alpha channel is dropped. Raises `DataError`.
    """
    with _opened(path) as image:
        try:
            upright = ImageOps.exif_transpose(image)
            return _pixels(_to_mode(upright, channels))
        except Exception as error:
            raise _undecodable(path, error) from error


def resize(
    image: Image, size: tuple[int, int], channels: int, resample: Resample = "bilinear"
) -> npt.NDArray[np.uint8]:
    """uint8 `[H, W, 1 or 3]` to uint8 `[*size, channels]`; the aspect ratio follows `size`.

    RGB becomes gray by ITU-R 601-2 luma, gray becomes RGB by repetition.
    """
    if image.shape == (*size, channels):
        return image
    pillow = _to_mode(Pillow.fromarray(image[:, :, 0] if image.shape[2] == 1 else image), channels)
    if image.shape[:2] != size:
        pillow = pillow.resize((size[1], size[0]), _FILTERS[resample])
    return _pixels(pillow)


def _opened(path: Path) -> Pillow.Image:
    try:
        image = Pillow.open(path, formats=_FORMATS)
    except Exception as error:
        raise _undecodable(path, error) from error
    limit = Pillow.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        size = f"{image.width}x{image.height}"
        image.close()
        raise _undecodable(path, ValueError(f"declares {size} pixels, more than {limit} in all"))
    return image


def _undecodable(path: Path, error: Exception) -> DataError:
    # Pillow's readers raise whatever their parsing trips over (SyntaxError, struct.error, KeyError ...).
    reason = str(error) or type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        reason = "not an image of a known format"
    return DataError(f"cannot decode: {reason}", where=str(path))


def _to_mode(image: Pillow.Image, channels: int) -> Pillow.Image:
    if image.mode.startswith("I;16") or image.mode == "I":
        # Pillow clips 16-bit gray at 255 instead of scaling it.
        wide = np.asarray(image).astype(np.int64)
        image = Pillow.fromarray((np.clip(wide, 0, 65535) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    mode = "L" if channels == 1 else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _pixels(image: Pillow.Image) -> npt.NDArray[np.uint8]:
    pixels = np.array(image, np.uint8)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels
