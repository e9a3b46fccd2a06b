"""The `fashion_mnist` source: IDX files under a folder, fetched only when the recipe asks."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import Field

from edgekd.core.errors import DataError
from edgekd.data.array_images import ArrayImages
from edgekd.data.assembling import Part, Plan, assemble
from edgekd.data.augmentation import Augment
from edgekd.data.download import download
from edgekd.data.idx import read_idx
from edgekd.data.paths import existing_folder
from edgekd.data.source import Outline, Source
from edgekd.data.split import Dataset

CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
MIRROR = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"


class _Published(NamedTuple):
    sha256: str
    size_bytes: int


FILES = {
    "train-images-idx3-ubyte": _Published(
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84", 26421880
    ),
    "train-labels-idx1-ubyte": _Published(
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845", 29515
    ),
    "t10k-images-idx3-ubyte": _Published(
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073", 4422102
    ),
    "t10k-labels-idx1-ubyte": _Published(
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5", 5148
    ),
}
"""sha256 and size of each published `.gz`."""


class FashionMnist(Source):
    """Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747): 60,000 + 10,000 gray images of 28x28 pixels."""

    root: Path = Field(
        description="Folder of the IDX files, plain or .gz (Debian's package `dataset-fashion-mnist` "
        "installs them in /usr/share/datasets/fashion-mnist)."
    )
    download: bool = Field(False, description="Fetch the files that `root` lacks (31 MB).")
    val: float = Field(0.1, gt=0, lt=1, description="Share of the training images held out for val.")
    limit: int | None = Field(
        None, ge=20, description="Use at most this many images for train and val; test stays whole."
    )

    def read(self, seed: int) -> Dataset:
        if self.download:
            fetch_missing(self.root.expanduser())
        where = f"data source `fashion_mnist` at {self.root}"
        root = existing_folder(self.root, where)
        train, test = _read_part(root, "train"), _read_part(root, "t10k")
        plan = Plan(seed, self.calibration, val_share=self.val, limit=self.limit)
        return assemble(where, plan, CLASSES, train.shape, train=train.part, test=test.part)

    def outline(self) -> Outline:
        return Outline(CLASSES, (1, 28, 28))

    def default_augment(self, image_size: tuple[int, int]) -> Augment:
        del image_size
        return Augment(flip=True, shift=2)


def find_file(root: Path, name: str) -> Path | None:
    """The file under `root`, plain or gzipped, or None."""
    candidates = (root / name, root / f"{name}.gz", root / name.replace("-idx", ".idx", 1))
    return next((path for path in candidates if path.is_file()), None)


def fetch_missing(root: Path, mirror: str = MIRROR) -> None:
    """Download the files that `root` lacks, each checked against its published sha256."""
    for name, published in FILES.items():
        if find_file(root, name) is None:
            target = root / f"{name}.gz"
            download(mirror + target.name, target, sha256=published.sha256, size_bytes=published.size_bytes)


class _Read(NamedTuple):
    part: Part
    shape: tuple[int, int, int]


def _read_part(root: Path, prefix: str) -> _Read:
    images_path = _required(root, f"{prefix}-images-idx3-ubyte")
    labels_path = _required(root, f"{prefix}-labels-idx1-ubyte")
    pixels = read_idx(images_path, 3)[..., None]
    labels = read_idx(labels_path, 1).astype(np.int64)
    if len(pixels) != len(labels):
        raise DataError(f"{len(pixels)} images but {len(labels)} labels", where=str(images_path))
    _, height, width, _ = pixels.shape
    return _Read(Part(ArrayImages(pixels), labels), (height, width, 1))


def _required(root: Path, name: str) -> Path:
    path = find_file(root, name)
    if path is None:
        raise DataError(
            f"no file `{name}` or `{name}.gz`",
            where=str(root),
            fix="set `root:` to the folder that holds the four IDX files, or `download: true`",
        )
    return path
