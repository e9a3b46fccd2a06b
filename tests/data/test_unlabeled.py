"""Images without labels beside a data set: found anywhere, decoded alike, never those it is judged by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekd.core.errors import DataError
from edgekd.data.catalogue import SOURCES
from edgekd.data.file_images import FileImages
from edgekd.data.source import Source
from edgekd.data.sources.arrays import Arrays
from edgekd.data.sources.digits import Digits
from edgekd.data.sources.image_folder import ImageFolder
from edgekd.data.split import Dataset, Split
from tests.data.making import image_folder, random_pixels, save_images


def arrays(folder: Path, **settings: Any) -> Arrays:
    """60 gray images of 12x10 pixels in two classes."""
    file = folder / "data.npz"
    np.savez(file, x_train=random_pixels(60, 12, 10), y_train=np.arange(60) % 2)
    return Arrays(file=file, calibration=8, **settings)


def save(path: Path, pixels: np.ndarray[Any, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path)


def unlabeled(source: Source) -> Split:
    found = source.open(0).unlabeled
    assert found is not None
    return found


def test_images_are_found_in_any_subfolder_and_sorted_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "more"
    save_images(folder / "b" / "deep", 2, seed=1)
    save_images(folder, 1, seed=2)
    (folder / "notes.txt").write_text("no image")
    split = unlabeled(arrays(tmp_path, unlabeled=folder))
    assert split.ids == ("2_000.png", "b/deep/1_000.png", "b/deep/1_001.png")
    assert split.name == "unlabeled"
    assert split.labels.tolist() == [-1, -1, -1]


def test_they_come_in_the_size_and_channels_of_the_data(tmp_path: Path) -> None:
    save_images(tmp_path / "more", 3, seed=1, size=(33, 21))
    images = unlabeled(arrays(tmp_path, unlabeled=tmp_path / "more")).images.get([0, 1, 2])
    assert {image.shape for image in images} == {(12, 10, 1)}


@pytest.mark.parametrize("split", ["val", "calibration", "test"])
def test_an_image_that_the_model_is_judged_by_is_left_out(tmp_path: Path, split: str) -> None:
    known = arrays(tmp_path).open(0).split(split).images.get([0, 3])
    for number, image in enumerate(known):
        save(tmp_path / "more" / "sub" / f"known{number}.png", image)
    save_images(tmp_path / "more", 2, seed=1)
    dataset = arrays(tmp_path, unlabeled=tmp_path / "more").open(0)
    assert dataset.unlabeled is not None
    assert dataset.unlabeled.ids == ("1_000.png", "1_001.png")
    assert dataset.notes[-1] == (
        "unlabeled: 2 images that are also in val, calibration or test were left out"
    )


def test_an_image_of_train_may_stay(tmp_path: Path) -> None:
    dataset = arrays(tmp_path).open(0)
    held = {image.tobytes() for image in dataset.calibration.images.get(range(8))}
    free = next(i for i in dataset.train.images.get(range(30)) if i.tobytes() not in held)
    save(tmp_path / "more" / "known.png", free)
    assert unlabeled(arrays(tmp_path, unlabeled=tmp_path / "more")).ids == ("known.png",)


@pytest.mark.parametrize("memory_mb", [0, 100])
def test_leaks_are_found_in_image_folders_too(tmp_path: Path, memory_mb: int) -> None:
    """Whether their images lie in memory or stay files; and in another size they count once resized."""
    root = image_folder(tmp_path / "data", {"a": 15, "b": 15})
    plain = ImageFolder(root=root, calibration=4, memory_mb=memory_mb).open(0)
    assert plain.test.ids is not None
    more = save_images(tmp_path / "more", 1, seed=77)[0].parent
    Image.open(root / plain.test.ids[2]).save(more / "leak.bmp")
    split = unlabeled(ImageFolder(root=root, calibration=4, memory_mb=memory_mb, unlabeled=more))
    assert split.ids == ("77_000.png",)


def test_nothing_but_leaks_is_an_error(tmp_path: Path) -> None:
    save(tmp_path / "more" / "a.png", arrays(tmp_path).open(0).test.images.get([0])[0])
    with pytest.raises(DataError, match="every image is also one of val, calibration or test"):
        arrays(tmp_path, unlabeled=tmp_path / "more").open(0)


def test_a_folder_without_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    with pytest.raises(DataError, match=r"`data.unlabeled` at .*more: holds no images"):
        arrays(tmp_path, unlabeled=tmp_path / "more").open(0)


def test_a_missing_folder_is_an_error_that_lists_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"`data.unlabeled` at .*does not exist\n.*data.npz"):
        arrays(tmp_path, unlabeled=tmp_path / "mroe").open(0)


def test_files_that_cannot_be_decoded_are_an_error_or_a_note(tmp_path: Path) -> None:
    save_images(tmp_path / "more", 2, seed=1)
    (tmp_path / "more" / "bad.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"1 images cannot be decoded:\n.*bad\.jpg(.|\n)*skip_undecodable"):
        arrays(tmp_path, unlabeled=tmp_path / "more").open(0)
    dataset = arrays(tmp_path, unlabeled=tmp_path / "more", skip_undecodable=True).open(0)
    assert dataset.unlabeled is not None and len(dataset.unlabeled) == 2
    assert dataset.notes[-1].startswith("unlabeled: 1 images cannot be decoded") and "bad.jpg" in str(
        dataset.notes
    )


def test_an_unlabeled_folder_among_class_folders_is_no_class(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "data", {"a": 10, "b": 10, "unlabeled": 4})
    with pytest.raises(DataError, match="stands among the class folders"):
        ImageFolder(root=root, unlabeled=root / "unlabeled").open(0)


def test_more_images_than_memory_stay_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_images(tmp_path / "more", 3, seed=1)
    in_memory = unlabeled(arrays(tmp_path, unlabeled=tmp_path / "more"))
    monkeypatch.setattr("edgekd.data.unlabeled.MEMORY_BYTES", 100)
    files = unlabeled(arrays(tmp_path, unlabeled=tmp_path / "more"))
    assert isinstance(files.images, FileImages)
    assert files.digest() == in_memory.digest()


def test_the_digest_names_them_and_is_as_before_without(tmp_path: Path) -> None:
    folder = save_images(tmp_path / "more", 2, seed=1)[0].parent
    without, with_them = arrays(tmp_path).open(0), arrays(tmp_path, unlabeled=folder).open(0)
    save_images(folder, 1, seed=2)
    with_more = arrays(tmp_path, unlabeled=folder).open(0)
    assert len({without.digest(), with_them.digest(), with_more.digest()}) == 3
    assert with_them.train.digest() == without.train.digest()
    assert [split.name for split in without.splits] == ["train", "val", "calibration", "test"]
    assert with_more.split("unlabeled") is with_more.unlabeled


def test_the_digest_of_a_data_set_without_is_the_one_it_always_had() -> None:
    """Recorded before there were unlabeled images."""
    dataset: Dataset = Digits().open(0)
    assert dataset.digest().startswith("b231a4bafc21ab7b")


@pytest.mark.parametrize("name", SOURCES.names())
def test_every_source_takes_unlabeled_images(name: str) -> None:
    assert {"unlabeled", "skip_undecodable"} <= set(SOURCES.load(name).model_fields)
