"""Looking at data somebody points to: which source reads it, and what is in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgekd.core.errors import DataError
from edgekd.data.catalogue import SOURCES
from edgekd.data.cifar_files import CIFAR10, CIFAR100, find
from edgekd.data.split import Dataset

EXPECTED = (
    "the name of a data source that needs no files (digits)",
    "a folder `<class>/<image>` or `train|val|test/<class>/<image>` (image_folder)",
    "a file .npz with x_train and y_train (arrays)",
    "a folder with train-images-idx3-ubyte[.gz] and its three companions (fashion_mnist)",
    "a folder with data_batch_1[.bin] (cifar10) or train.bin and test.bin (cifar100)",
)


@dataclass(frozen=True)
class Look:
    """What was found. `settings` are the recipe's keys under `data:`, `source` among them."""

    settings: dict[str, Any]
    num_images: dict[str, int]
    classes: tuple[str, ...]
    channels: int
    image_size: tuple[int, int]
    notes: tuple[str, ...]

    @property
    def source(self) -> str:
        return str(self.settings["source"])


def look_at(path_or_name: str, seed: int = 0) -> Look:
    """Find the source that reads `path_or_name`, open it whole, and summarize it.

    Raises `DataError` listing what was expected when nothing reads it, or saying what is wrong with it.
    """
    settings = guess_settings(path_or_name)
    keys = {key: value for key, value in settings.items() if key != "source"}
    try:
        source = SOURCES.load(str(settings["source"]))(**keys)
    except ValidationError as error:
        needed = ", ".join(f"`{detail['loc'][0]}`" for detail in error.errors())
        raise DataError(
            f"the data source `{path_or_name}` needs {needed}",
            where=path_or_name,
            fix="give the path of its files instead of its name",
        ) from error
    return _summary(settings, source.open(seed))


def guess_settings(path_or_name: str) -> dict[str, Any]:
    """The recipe's keys under `data:` for a path or the name of a source; opens nothing."""
    path = Path(path_or_name).expanduser()
    if path_or_name in SOURCES and not path.exists():
        return {"source": path_or_name}
    if not path.exists():
        raise DataError("does not exist and names no data source", where=path_or_name, choices=EXPECTED)
    for matches, source, key in _KINDS:
        if matches(path):
            return {"source": source, key: path_or_name}
    raise DataError("no data source reads this", where=path_or_name, choices=EXPECTED)


def _summary(settings: dict[str, Any], dataset: Dataset) -> Look:
    splits = (dataset.train, dataset.val, dataset.calibration, dataset.test)
    return Look(
        settings,
        {split.name: len(split) for split in splits},
        dataset.classes,
        dataset.channels,
        dataset.image_size,
        dataset.notes,
    )


def _is_idx(path: Path) -> bool:
    return path.is_dir() and any(path.glob("train-images*idx3-ubyte*"))


def _has_folders(path: Path) -> bool:
    return path.is_dir() and any(p.is_dir() and not p.name.startswith(".") for p in path.iterdir())


_KINDS: tuple[tuple[Callable[[Path], bool], str, str], ...] = (
    (lambda path: path.is_file() and path.suffix == ".npz", "arrays", "file"),
    (_is_idx, "fashion_mnist", "root"),
    (lambda path: path.is_dir() and find(path, CIFAR10) is not None, "cifar10", "root"),
    (lambda path: path.is_dir() and find(path, CIFAR100) is not None, "cifar100", "root"),
    (_has_folders, "image_folder", "root"),
)
"""(test, source, key that takes the path); the first match reads it."""
