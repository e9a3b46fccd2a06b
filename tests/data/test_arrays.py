import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.core.errors import DataError
from edgekd.data.sources.arrays import Arrays
from tests.data.making import random_pixels

X, Y = random_pixels(40, 6, 6, 3), np.arange(40) % 4


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path / "data.npz", **arrays)
    return path / "data.npz"


def test_given_splits_are_kept_as_they_are(tmp_path: Path) -> None:
    file = saved(tmp_path, x_train=X, y_train=Y, x_val=X[:8], y_val=Y[:8], x_test=X[8:20], y_test=Y[8:20])
    dataset = Arrays(file=file).open(0)
    assert [len(s) for s in (dataset.train, dataset.val, dataset.test)] == [40, 8, 12]
    np.testing.assert_array_equal(dataset.val.images.get([3])[0], X[3])
    assert (dataset.image_size, dataset.channels, dataset.classes) == ((6, 6), 3, ("0", "1", "2", "3"))


def test_what_is_not_given_is_held_out(tmp_path: Path) -> None:
    dataset = Arrays(file=saved(tmp_path, x_train=X, y_train=Y)).open(0)
    assert [len(s) for s in (dataset.train, dataset.val, dataset.test)] == [28, 4, 8]


def test_gray_images_need_no_channel_axis(tmp_path: Path) -> None:
    dataset = Arrays(file=saved(tmp_path, x_train=X[..., 0], y_train=Y[:, None])).open(0)
    assert (dataset.channels, dataset.train.images.get([0])[0].shape) == (1, (6, 6, 1))


def test_class_names_may_be_given(tmp_path: Path) -> None:
    names = np.array(["ant", "bee", "cat", "dog"])
    assert Arrays(file=saved(tmp_path, x_train=X, y_train=Y, classes=names)).open(0).classes[1] == "bee"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": X / 255, "y_train": Y}, "float64, not uint8"),
        ({"x_train": X.transpose(0, 3, 1, 2), "y_train": Y}, "channels last"),
        ({"x_train": X, "y_train": Y[:-1]}, "39 labels for 40 images"),
        ({"x_train": X, "y_train": np.eye(4)[Y]}, "one-hot"),
        ({"x_train": X, "y_train": Y * 1.0}, "not integers"),
        ({"x_train": X, "y_train": Y - 1}, "outside"),
        ({"x_train": X, "y_train": Y * 2}, "no image of 3 classes"),
        ({"x_train": X, "y_train": Y * 0}, "at least two"),
        ({"x_train": X, "y_train": Y + 10**12}, "largest label"),
        ({"x_train": X[:0], "y_train": Y[:0]}, "at least two"),
        ({"x_train": X}, "stands alone"),
        ({"images": X, "labels": Y}, "it holds: images, labels"),
        ({"x_train": X, "y_train": Y, "x_test": X[:, :5], "y_test": Y}, "differ in image shape"),
        ({"x_train": X, "y_train": Y, "classes": np.array([1, 2])}, "not text"),
        ({"x_train": X, "y_train": Y, "classes": np.array(["a", "b"])}, "outside"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Arrays(file=saved(tmp_path, **arrays)).open(0)


def test_pickled_arrays_are_never_loaded(tmp_path: Path) -> None:
    file = saved(tmp_path, x_train=X, y_train=np.array(Y, object))
    with pytest.raises(DataError, match="never loaded"):
        Arrays(file=file).open(0)


@pytest.mark.parametrize("keep", [0, 10, 500, -30])
def test_a_file_cut_short_is_refused(tmp_path: Path, keep: int) -> None:
    file = saved(tmp_path, x_train=X, y_train=Y)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DataError, match="not a readable"):
        Arrays(file=file).open(0)


def test_damaged_content_is_refused(tmp_path: Path) -> None:
    file = saved(tmp_path, x_train=X, y_train=Y)
    content = bytearray(file.read_bytes())
    content[1000] ^= 0xFF
    file.write_bytes(bytes(content))
    with pytest.raises(DataError, match="CRC"):
        Arrays(file=file).open(0)


def npy(header: str, body: bytes = b"") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


@pytest.mark.parametrize(
    "member",
    [
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000000, 3)}"),
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 2, 2)}"),
        npy("{'descr': '|u1', 'fortran_order': False, 'shape': __import__('os').getpid()}"),
        npy("{" * 500),
        b"not an array",
        b"",
    ],
    ids=["terabytes", "negative", "code", "braces", "text", "empty"],
)
def test_hostile_headers_are_refused(tmp_path: Path, member: bytes) -> None:
    file = tmp_path / "data.npz"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x_train.npy", member)
        buffer = io.BytesIO()
        np.save(buffer, Y)
        archive.writestr("y_train.npy", buffer.getvalue())
    with pytest.raises(DataError):
        Arrays(file=file).open(0)


def test_a_bomb_is_refused_before_it_is_inflated(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "data.npz", x_train=np.zeros((3000, 32, 32), np.uint8), y_train=Y)
    with pytest.raises(DataError, match="memory_mb"):
        Arrays(file=tmp_path / "data.npz", memory_mb=1).open(0)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        Arrays(file=tmp_path / "no.npz").open(0)
