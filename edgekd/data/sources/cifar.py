"""The `cifar10` and `cifar100` sources."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from edgekd.core.errors import DataError
from edgekd.data.array_images import ArrayImages
from edgekd.data.assembling import Part, Plan, assemble
from edgekd.data.augmentation import Augment
from edgekd.data.cifar_files import CIFAR10, CIFAR100, SIDE, Batches, Found, Layout, find
from edgekd.data.npz_dataset import open_npz
from edgekd.data.paths import existing_file, existing_folder
from edgekd.data.source import Outline, Source
from edgekd.data.split import Dataset

_OFFICIAL_TEST = 10_000
_NPZ_BYTES = 1 << 30


class _Cifar(Source):
    layout: ClassVar[Layout]

    root: Path = Field(
        description="Folder of the binary version (.bin files) or of the Python version, or the folder "
        "around it; or an .npz file with x_train, y_train, x_test and y_test."
    )
    val: float = Field(0.1, gt=0, lt=1, description="Share of the training images held out for val.")
    limit: int | None = Field(
        None, ge=20, description="Use at most this many images for train and val; test stays whole."
    )

    def read(self, seed: int) -> Dataset:
        where = f"data source `{self.layout.name}` at {self.root}"
        plan = Plan(seed, self.calibration, val_share=self.val, limit=self.limit)
        if self.root.suffix == ".npz":
            return open_npz(existing_file(self.root, where), where, plan, _NPZ_BYTES)
        found = self._find(where)
        test = found.test()
        return assemble(
            where,
            plan,
            found.class_names(),
            (SIDE, SIDE, 3),
            train=_part(found.train()),
            test=_part(test),
            notes=_notes(test),
        )

    def _find(self, where: str) -> Found:
        found = find(existing_folder(self.root, where), self.layout)
        if found is None:
            first = self.layout.train[0]
            raise DataError(
                f"neither `{first}.bin` (binary version) nor `{first}` (Python version)",
                where=where,
                fix=f"set `root:` to the unpacked `{self.layout.binary_folder}` or its parent",
            )
        return found

    def outline(self) -> Outline | None:
        """None for an .npz file, and where opening the data will tell what is wrong with them."""
        try:
            found = find(self.root, self.layout) if self.root.is_dir() else None
            return None if found is None else Outline(found.class_names(), (3, SIDE, SIDE))
        except (DataError, OSError):
            return None

    def default_augment(self, image_size: tuple[int, int]) -> Augment:
        """Mirroring and crops padded by 4 pixels (He et al. 2016, section 4.2)."""
        del image_size
        return Augment(flip=True, shift=4)


class Cifar10(_Cifar):
    """CIFAR-10 (Krizhevsky 2009): 50,000 + 10,000 RGB images of 32x32 pixels in 10 classes."""

    layout = CIFAR10


class Cifar100(_Cifar):
    """CIFAR-100 (Krizhevsky 2009): 50,000 + 10,000 RGB images of 32x32 pixels in 100 fine classes."""

    layout = CIFAR100


def _part(batches: Batches) -> Part:
    return Part(ArrayImages(batches.pixels), batches.labels)


def _notes(test: Batches) -> tuple[str, ...]:
    count = len(test.labels)
    if count == _OFFICIAL_TEST:
        return ()
    return (f"test has {count:,} of the official {_OFFICIAL_TEST:,} images",)
