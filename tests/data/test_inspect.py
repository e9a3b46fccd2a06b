from pathlib import Path

import numpy as np
import pytest

from edgekd.core.errors import DataError
from edgekd.data.cifar_files import CIFAR10, CIFAR100
from edgekd.data.inspect import guess_settings, look_at
from tests.data.making import cifar_folder, fashion_folder, image_folder, random_pixels


def test_an_image_folder_is_summarized(tmp_path: Path) -> None:
    look = look_at(str(image_folder(tmp_path, {"bee": 20, "ant": 20})))
    assert look.settings == {"source": "image_folder", "root": str(tmp_path)}
    assert look.num_images == {"train": 28, "val": 4, "calibration": 28, "test": 8}
    assert (look.classes, look.image_size, look.channels) == (("ant", "bee"), (12, 10), 3)


def test_a_name_will_do_where_no_files_are_needed() -> None:
    look = look_at("digits")
    assert (look.source, look.num_images["test"]) == ("digits", 719)


def test_a_name_that_needs_files_says_so() -> None:
    with pytest.raises(DataError, match="needs `root`"):
        look_at("cifar10")


def test_every_kind_of_file_is_recognized(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x_train=random_pixels(4, 2, 2))
    fashion_folder(tmp_path / "fashion")
    cifar_folder(tmp_path / "c10", CIFAR10, is_binary=False)
    cifar_folder(tmp_path / "c100" / CIFAR100.binary_folder, CIFAR100, is_binary=True)
    kinds = {
        name: guess_settings(str(tmp_path / name))["source"] for name in ("a.npz", "fashion", "c10", "c100")
    }
    assert kinds == {"a.npz": "arrays", "fashion": "fashion_mnist", "c10": "cifar10", "c100": "cifar100"}


@pytest.mark.parametrize("name", ["nowhere", "empty", "text.csv"])
def test_anything_else_lists_what_was_expected(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.csv").write_text("a,b")
    with pytest.raises(DataError, match=r"image_folder(.|\n)*x_train"):
        look_at(str(tmp_path / name))
