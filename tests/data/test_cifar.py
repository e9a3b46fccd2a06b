import pickle
from pathlib import Path

import numpy as np
import pytest

from edgekd.core.errors import DataError
from edgekd.data.cifar_files import CIFAR10, CIFAR100, Layout, read_binary, to_records
from edgekd.data.sources.cifar import Cifar10, Cifar100
from tests.data.making import cifar_folder, random_pixels

KINDS = [(Cifar10, CIFAR10, 40), (Cifar100, CIFAR100, 400)]


@pytest.mark.parametrize(("source", "layout", "count"), KINDS)
@pytest.mark.parametrize("protocol", [2, 4])
def test_the_binary_and_the_python_version_are_the_same_data(
    tmp_path: Path, source: type[Cifar10] | type[Cifar100], layout: Layout, count: int, protocol: int
) -> None:
    binary = cifar_folder(tmp_path / "bin", layout, is_binary=True, count=count)
    python = cifar_folder(tmp_path / "py", layout, is_binary=False, count=count, protocol=protocol)
    first, second = source(root=binary).open(0), source(root=python).open(0)
    assert first.digest() == second.digest()
    assert first.classes[:2] == ("class0", "class1")
    assert (len(first.classes), first.image_size, first.channels) == (layout.num_classes, (32, 32), 3)


def test_rows_become_images_with_channels_last(tmp_path: Path) -> None:
    pixels, labels = random_pixels(3, 32, 32, 3), np.array([1, 0, 9], np.uint8)
    path = tmp_path / "batch.bin"
    path.write_bytes(to_records(pixels, labels).tobytes())
    record = path.read_bytes()
    assert record[1 + 1024 + 32] == pixels[0, 1, 0, 1], "green plane, second row, first column"
    read = read_binary(path, CIFAR10)
    np.testing.assert_array_equal(read.pixels, pixels)
    np.testing.assert_array_equal(read.labels, labels)


def test_the_folder_around_the_files_will_do(tmp_path: Path) -> None:
    cifar_folder(tmp_path / CIFAR10.binary_folder, CIFAR10, is_binary=True)
    assert len(Cifar10(root=tmp_path).open(0).test) == 40


def test_a_partial_test_set_is_a_note(tmp_path: Path) -> None:
    root = cifar_folder(tmp_path, CIFAR10, is_binary=True)
    assert "test has 40 of the official 10,000 images" in Cifar10(root=root).open(0).notes


def test_a_missing_batch_is_named(tmp_path: Path) -> None:
    (cifar_folder(tmp_path, CIFAR10, is_binary=True) / "data_batch_4.bin").unlink()
    with pytest.raises(DataError, match=r"missing files: data_batch_4\.bin"):
        Cifar10(root=tmp_path).open(0)


def test_a_batch_cut_short_is_refused(tmp_path: Path) -> None:
    path = cifar_folder(tmp_path, CIFAR10, is_binary=True) / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="cut short"):
        Cifar10(root=tmp_path).open(0)


def test_a_python_batch_with_too_few_labels_is_refused(tmp_path: Path) -> None:
    path = cifar_folder(tmp_path, CIFAR10, is_binary=False) / "data_batch_2"
    path.write_bytes(pickle.dumps({b"data": random_pixels(4, 3072), b"labels": [1]}, protocol=2))
    with pytest.raises(DataError, match="no list `labels` of 4 labels"):
        Cifar10(root=tmp_path).open(0)


def test_another_folder_is_refused_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cifar-10-batches-bin"):
        Cifar10(root=tmp_path).open(0)


def test_an_npz_will_do(tmp_path: Path) -> None:
    labels = np.arange(40) % 10
    path = tmp_path / "cifar.npz"
    np.savez(
        path,
        x_train=random_pixels(40, 32, 32, 3),
        y_train=labels,
        x_test=random_pixels(20, 32, 32, 3),
        y_test=labels[:20],
    )
    assert len(Cifar10(root=path).open(0).test) == 20


def test_limit_keeps_test_whole(tmp_path: Path) -> None:
    dataset = Cifar10(root=cifar_folder(tmp_path, CIFAR10, is_binary=True), limit=50, val=0.2).open(0)
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (40, 10, 40)
