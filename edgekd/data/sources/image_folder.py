"""The `image_folder` source: your own image files, sorted into folders by class."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, field_validator

from edgekd.core.errors import DataError
from edgekd.data.assembling import Part, Plan, assemble
from edgekd.data.augmentation import Augment
from edgekd.data.checks import MAX_SIDE
from edgekd.data.file_images import scanned_images
from edgekd.data.folder_groups import Grouping, group_images
from edgekd.data.folder_layout import FolderLayout, Listing, read_layout
from edgekd.data.folder_scan import Scan, decodable, scan, working_size
from edgekd.data.paths import existing_folder
from edgekd.data.source import Source
from edgekd.data.split import Dataset

Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]


class ImageFolder(Source):
    """Your own images: `<class>/<image>`, or `train|val|test/<class>/<image>` where the splits are given.

    What is not given is held out of train: seeded, the same share of every class, and never dividing a
    group or images that are nearly the same.
    """

    root: Path = Field(description="The folder that holds the class folders, or the split folders.")
    size: Side | tuple[Side, Side] | None = Field(
        None,
        description="Pixels to work at: a side, or [height, width]. Default: the images' own size if they "
        "agree, else a square near their shorter side, at most 224.",
    )
    channels: Literal[1, 3] = Field(3, description="3 for RGB, 1 for gray.")
    val: float = Field(0.1, gt=0, lt=1, description="Share held out for val where there is no val folder.")
    test: float = Field(0.2, gt=0, lt=1, description="Share held out for test of class/file folders.")
    group: str | None = Field(
        None,
        description="Regular expression searched in `class/.../file`; images with the same match (its first "
        "group, if it has one) stay on one side of every split. Example: `(patient\\d+)_`.",
    )
    memory_mb: int = Field(
        1024, ge=0, description="Keep the images decoded if they fit into this; else decode on demand."
    )
    limit: int | None = Field(
        None, ge=20, description="Use at most this many images for train and val; test stays whole."
    )

    @field_validator("group")
    @classmethod
    def _compiles(cls, group: str | None) -> str | None:
        try:
            re.compile(group or "")
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return group

    def read(self, seed: int) -> Dataset:
        where = f"data source `image_folder` at {self.root}"
        root = existing_folder(self.root, where)
        layout = read_layout(root, where)
        self._refuse_unlabeled_class(root, layout, where)
        listing = _all(layout)
        size, size_notes = self._working_size([root / name for name in listing.names], where)
        scanned = scan([root / n for n in listing.names], size, self.channels, self.memory_mb << 20)
        kept, skip_notes = decodable(
            scanned.failures, len(listing.names), skip=self.skip_undecodable, where=where
        )
        grouping = group_images(layout, scanned, kept, self.group, where)
        parts = _parts(root, layout, listing, scanned, kept, grouping, size, self.channels)
        plan = Plan(seed, self.calibration, self.val, self.test, self.limit)
        return assemble(
            where,
            plan,
            layout.classes,
            (*size, self.channels),
            train=parts["train"],
            val=parts.get("val"),
            test=parts.get("test"),
            notes=(*layout.notes, *size_notes, *skip_notes, *grouping.notes),
        )

    def default_augment(self, image_size: tuple[int, int]) -> Augment:
        """Mirroring and crops padded by an eighth of the side (CIFAR's 4 of 32 pixels, at any size)."""
        return Augment(flip=True, shift=max(1, min(image_size) // 8))

    def _refuse_unlabeled_class(self, root: Path, layout: FolderLayout, where: str) -> None:
        """In `<class>/<image>` a folder of unlabeled images inside `root` would be a class."""
        folder = self.unlabeled.expanduser().resolve() if self.unlabeled is not None else None
        if len(layout.parts) == 1 and folder in [(root / name).resolve() for name in layout.classes]:
            raise DataError(
                f"the folder of the unlabeled images, `{self.unlabeled}`, stands among the class folders",
                where=where,
                fix="move it out of `root`, or sort the images into `train` and `test` folders",
            )

    def _working_size(self, paths: list[Path], where: str) -> tuple[tuple[int, int], list[str]]:
        if self.size is not None:
            return (self.size, self.size) if isinstance(self.size, int) else self.size, []
        size, failures, note = working_size(paths)
        decodable(failures, len(paths), skip=self.skip_undecodable, where=where)
        return size, [note] if note else []


def _all(layout: FolderLayout) -> Listing:
    parts = layout.parts.values()
    return Listing(
        tuple(name for part in parts for name in part.names),
        tuple(label for part in parts for label in part.labels),
    )


def _parts(
    root: Path,
    layout: FolderLayout,
    listing: Listing,
    scanned: Scan,
    kept: np.ndarray[tuple[int], np.dtype[np.int64]],
    grouping: Grouping,
    size: tuple[int, int],
    channels: int,
) -> dict[str, Part]:
    """One `Part` a split folder, of the rows that could be decoded."""
    images = scanned_images([root / name for name in listing.names], scanned, size, channels)
    labels = np.array(listing.labels, np.int64)
    whole = Part(images, labels, listing.names, grouping.groups)
    parts, start = {}, 0
    for split, part in layout.parts.items():
        rows = kept[(kept >= start) & (kept < start + len(part.names))]
        parts[split] = whole.take(rows)
        start += len(part.names)
    return parts
