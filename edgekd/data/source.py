"""The base class of data sources: its fields are the recipe's keys beside `source:`."""

from __future__ import annotations

from pydantic import Field

from edgekd.core.config import Config
from edgekd.data.augmentation import Augment
from edgekd.data.split import Dataset


class Source(Config):
    """One kind of data. `open` reads it; it raises `DataError` with a fix for anything it cannot use."""

    calibration: int = Field(
        512,
        ge=1,
        description="Number of training images that calibration sees (all of them if there are fewer).",
    )

    split_seed: int = Field(
        0,
        description="Seed of the splits. Apart from the recipe's seed: under another training seed a teacher "
        "must not meet the images it learned from in test.",
    )

    def open(self, seed: int) -> Dataset:
        """The data set; the same seed gives the same splits."""
        raise NotImplementedError

    def default_augment(self, image_size: tuple[int, int]) -> Augment:
        """What training does to these images unless the recipe says otherwise.

        `image_size` is the data set's (height, width). The base class changes nothing.
        """
        del image_size
        return Augment()
