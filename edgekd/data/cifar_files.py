"""Reading CIFAR-10 and CIFAR-100 in the forms they are published in, none of which is ever unpickled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgekd.core.errors import DataError
from edgekd.data.pickled_arrays import read_pickled_arrays

SIDE = 32
_PIXELS = 3 * SIDE * SIDE


@dataclass(frozen=True)
class Layout:
    """The files of one of the two data sets."""

    name: str
    binary_folder: str
    python_folder: str
    train: tuple[str, ...]
    test: str
    label_bytes: int
    """Label bytes before each image of the binary version; the last one is the class."""
    labels_key: str
    names_file: tuple[str, str]
    """Files of the class names in the (binary, Python) version."""
    names_key: str
    num_classes: int


CIFAR10 = Layout(
    name="cifar10",
    binary_folder="cifar-10-batches-bin",
    python_folder="cifar-10-batches-py",
    train=tuple(f"data_batch_{number}" for number in range(1, 6)),
    test="test_batch",
    label_bytes=1,
    labels_key="labels",
    names_file=("batches.meta.txt", "batches.meta"),
    names_key="label_names",
    num_classes=10,
)
CIFAR100 = Layout(
    name="cifar100",
    binary_folder="cifar-100-binary",
    python_folder="cifar-100-python",
    train=("train",),
    test="test",
    label_bytes=2,
    labels_key="fine_labels",
    names_file=("fine_label_names.txt", "meta"),
    names_key="fine_label_names",
    num_classes=100,
)


@dataclass(frozen=True)
class Batches:
    """Images uint8 `[N, 32, 32, 3]` and labels int64 `[N]`."""

    pixels: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Found:
    """Where a data set lies and in which version."""

    folder: Path
    is_binary: bool
    layout: Layout

    @property
    def suffix(self) -> str:
        return ".bin" if self.is_binary else ""

    def train(self) -> Batches:
        return self._read(self.layout.train)

    def test(self) -> Batches:
        return self._read((self.layout.test,))

    def class_names(self) -> tuple[str, ...]:
        """Raises `DataError` unless there is one name a class."""
        path = self.folder / self.layout.names_file[0 if self.is_binary else 1]
        names = _text_lines(path) if self.is_binary else read_pickled_arrays(path)[self.layout.names_key]
        if len(names) != self.layout.num_classes:
            raise DataError(
                f"{len(names)} class names for {self.layout.num_classes} classes", where=str(path)
            )
        return tuple(map(str, names))

    def _read(self, names: Sequence[str]) -> Batches:
        missing = [n + self.suffix for n in names if not (self.folder / (n + self.suffix)).is_file()]
        if missing:
            raise DataError(f"missing files: {', '.join(missing)}", where=str(self.folder))
        read = read_binary if self.is_binary else read_python
        batches = [read(self.folder / (name + self.suffix), self.layout) for name in names]
        return Batches(
            np.concatenate([batch.pixels for batch in batches]),
            np.concatenate([batch.labels for batch in batches]),
        )


def find(root: Path, layout: Layout) -> Found | None:
    """The version under `root` (or `root` itself), the binary one first."""
    for is_binary, name in ((True, layout.binary_folder), (False, layout.python_folder)):
        for folder in (root, root / name):
            found = Found(folder, is_binary, layout)
            if (folder / (layout.train[0] + found.suffix)).is_file():
                return found
    return None


def read_binary(path: Path, layout: Layout) -> Batches:
    """A `.bin` file: records of label bytes, then 1,024 bytes each of red, green and blue."""
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DataError(f"cannot read: {error}", where=str(path)) from error
    record = layout.label_bytes + _PIXELS
    if len(data) == 0 or len(data) % record:
        raise DataError(
            f"{len(data)} bytes are not a whole number of records of {record}: cut short or another file",
            where=str(path),
        )
    records = data.reshape(-1, record)
    labels = records[:, layout.label_bytes - 1].astype(np.int64)
    return Batches(_to_images(records[:, layout.label_bytes :]), labels)


def read_python(path: Path, layout: Layout) -> Batches:
    """A file of the Python version: a dictionary with `data` uint8 `[N, 3072]` and a list of labels."""
    entries = read_pickled_arrays(path)
    data, labels = entries.get("data"), entries.get(layout.labels_key)
    if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != _PIXELS:
        raise DataError(f"`data` is not an array [N, {_PIXELS}]", where=str(path))
    if data.dtype != np.uint8 or not isinstance(labels, list) or len(labels) != len(data):
        raise DataError(f"no list `{layout.labels_key}` of {len(data)} labels", where=str(path))
    if not all(isinstance(label, int) for label in labels):
        raise DataError(f"`{layout.labels_key}` holds more than integers", where=str(path))
    return Batches(_to_images(data), np.array(labels, np.int64))


def to_records(pixels: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The inverse of `read_binary` for CIFAR-10: uint8 `[N, 32, 32, 3]` and `[N]` to `[N, 3073]`."""
    flat = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), _PIXELS)
    return np.concatenate([labels[:, None], flat], axis=1)


def _to_images(flat: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(flat.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))


def _text_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the class names: {error}", where=str(path)) from error
