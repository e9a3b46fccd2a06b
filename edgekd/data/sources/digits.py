"""The `digits` source: scikit-learn's bundled handwritten digits."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import Field

from edgekd.core.errors import MissingDependencyError
from edgekd.data.array_images import ArrayImages
from edgekd.data.assembling import Part, Plan, assemble
from edgekd.data.augmentation import Augment
from edgekd.data.source import Outline, Source
from edgekd.data.split import Dataset

CLASSES = tuple("0123456789")
_SHAPE = (8, 8, 1)
_WHITE = 16
"""The set counts ink in 4x4 blocks of a 32x32 bitmap, so its brightest pixel is 16."""


class Digits(Source):
    """1,797 gray digits of 8x8 pixels, inside scikit-learn's wheel (Alpaydin and Kaynak 1998, UCI)."""

    val: float = Field(0.1, gt=0, lt=1, description="Share of the images held out for val.")
    test: float = Field(
        0.4,
        gt=0,
        lt=1,
        description="Share of the images held out for test; large, because a gate needs many.",
    )

    def read(self, seed: int) -> Dataset:
        """Raises `MissingDependencyError` without scikit-learn."""
        table = _read_table()
        pixels = np.rint(table[:, :-1] * (255 / _WHITE)).astype(np.uint8).reshape(-1, *_SHAPE)
        everything = Part(ArrayImages(pixels), table[:, -1].astype(np.int64))
        plan = Plan(seed, self.calibration, val_share=self.val, test_share=self.test)
        return assemble("digits", plan, CLASSES, _SHAPE, train=everything)

    def outline(self) -> Outline:
        height, width, channels = _SHAPE
        return Outline(CLASSES, (channels, height, width))

    def default_augment(self, image_size: tuple[int, int]) -> Augment:
        del image_size
        return Augment(shift=1, rotate_degrees=10, scale=0.1)


def _read_table() -> npt.NDArray[np.float64]:
    """`[1797, 65]`: 64 pixels of 0..16, then the digit.

    Read from the file inside the package where it is, because importing scikit-learn takes seconds.
    """
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise MissingDependencyError("scikit-learn", extra="train", where="data source `digits`")
    path = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if path.is_file():
        return np.loadtxt(path, delimiter=",")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.concatenate([bunch.data, bunch.target[:, None]], axis=1)
