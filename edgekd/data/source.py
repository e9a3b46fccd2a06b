"""The base class of data sources: its fields are the recipe's keys beside `source:`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from edgekd.core.config import Config
from edgekd.data.augmentation import Augment
from edgekd.data.split import Dataset


@dataclass(frozen=True)
class Outline:
    """A data set without its images: the class names, and (C, H, W) of what training works at.

    num_images: of train; None before the data are opened.
    """

    classes: tuple[str, ...]
    image_shape: tuple[int, int, int]
    num_images: int | None = None

    @classmethod
    def of(cls, dataset: Dataset) -> Outline:
        """What an opened data set turned out to be."""
        return cls(dataset.classes, (dataset.channels, *dataset.image_size), len(dataset.train))


class Source(Config):
    """One kind of data. A source of its own overrides `read`; the rest of edgekd calls `open`."""

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

    unlabeled: Path | None = Field(
        None,
        description="A folder of further images without labels, in any subfolders, for methods that learn "
        "from such images.",
    )

    skip_undecodable: bool = Field(
        False,
        description="Leave out image files that cannot be decoded (listed in the report) instead of failing.",
    )

    def open(self, seed: int) -> Dataset:
        """The data set, with the unlabeled images beside it; the same seed gives the same splits.

        Raises `DataError` with a fix for anything it cannot use.
        """
        dataset = self.read(seed)
        if self.unlabeled is None:
            return dataset
        from edgekd.data.unlabeled import with_unlabeled

        return with_unlabeled(dataset, self.unlabeled, skip_undecodable=self.skip_undecodable)

    def read(self, seed: int) -> Dataset:
        """The four labeled splits. Raises `DataError` with a fix for anything it cannot use."""
        raise NotImplementedError

    def outline(self) -> Outline | None:
        """What can be said of the data in milliseconds, before they are opened; None where nothing can.

        Recipes are checked against it.
        """
        return None

    def default_augment(self, image_size: tuple[int, int]) -> Augment:
        """What training does to these images unless the recipe says otherwise.

        `image_size` is the data set's (height, width). The base class changes nothing.
        """
        del image_size
        return Augment()
