from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekd.core.preprocess import Preprocess
from edgekd.data.evaluation import evaluation_arrays, write_evalset
from tests.data.making import array_split

RGB = {"mean": (0.5,) * 3, "std": (0.5,) * 3}


def test_images_of_the_right_size_are_unchanged() -> None:
    split = array_split(side=8)
    images, labels = evaluation_arrays(split, Preprocess(size=(8, 8), **RGB))
    np.testing.assert_array_equal(images, np.stack(split.images.get(range(20))))
    np.testing.assert_array_equal(labels, split.labels)


@pytest.mark.parametrize("rule", ["bilinear", "bicubic", "nearest"])
def test_resizing_is_pillows_with_the_named_filter(rule: str) -> None:
    split = array_split(side=8)
    preprocess = Preprocess.model_validate({"size": (6, 12), "resize": rule, **RGB})
    images, _ = evaluation_arrays(split, preprocess)
    filters = Image.Resampling
    filter_ = {"bilinear": filters.BILINEAR, "bicubic": filters.BICUBIC, "nearest": filters.NEAREST}[rule]
    wanted = Image.fromarray(split.images.get([7])[0]).resize((12, 6), filter_)
    np.testing.assert_array_equal(images[7], np.asarray(wanted))


@pytest.mark.parametrize(("have", "want"), [(1, 3), (3, 1)])
def test_channels_are_converted(have: int, want: int) -> None:
    preprocess = Preprocess(size=(8, 8), mean=(0.0,) * want, std=(1.0,) * want)
    images, _ = evaluation_arrays(array_split(channels=have), preprocess)
    assert images.shape == (20, 8, 8, want)


def test_the_files_hold_the_arrays(tmp_path: Path) -> None:
    split, preprocess = array_split(), Preprocess(size=(5, 5), **RGB)
    names = write_evalset(split, preprocess, tmp_path / "set")
    assert sorted(names) == sorted(path.name for path in (tmp_path / "set").iterdir())
    images, labels = evaluation_arrays(split, preprocess)
    stored = np.load(tmp_path / "set" / "images.npy", allow_pickle=False)
    np.testing.assert_array_equal(stored, images)
    assert stored.dtype == np.uint8
    np.testing.assert_array_equal(np.load(tmp_path / "set" / "labels.npy", allow_pickle=False), labels)


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    split, preprocess = array_split(), Preprocess(size=(5, 5), **RGB)
    for name in "ab":
        write_evalset(split, preprocess, tmp_path / name)
    assert (tmp_path / "a/images.npy").read_bytes() == (tmp_path / "b/images.npy").read_bytes()
