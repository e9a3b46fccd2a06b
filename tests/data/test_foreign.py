"""Other people's labeled images, read whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekd.core.errors import DataError
from edgekd.data.foreign import read_labeled

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 7, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 1, 0, 1, 0])


def folder(root: Path, *, below: str = "") -> Path:
    for number, label in enumerate(LABELS):
        place = root / below / ("cat", "dog")[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS[number]).save(place / f"{number}.png")
    return root


def test_every_image_of_a_class_folder_is_taken_at_its_own_size(tmp_path: Path) -> None:
    found = read_labeled(str(folder(tmp_path)), 3)
    assert found.classes == ("cat", "dog")
    assert len(found.split) == 6
    (image,) = found.split.images.get([0])
    np.testing.assert_array_equal(image, PIXELS[0])
    assert found.split.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_the_test_folder_is_taken_where_there_are_splits(tmp_path: Path) -> None:
    folder(tmp_path, below="test")
    (tmp_path / "train" / "cat").mkdir(parents=True)
    found = read_labeled(str(tmp_path), 1)
    assert len(found.split) == 6
    assert found.split.images.get([0])[0].shape == (5, 7, 1)
    assert "test" in found.notes[0]


def test_training_images_alone_are_refused_as_evidence_and_read_as_training(tmp_path: Path) -> None:
    folder(tmp_path, below="train")
    with pytest.raises(DataError, match="not judged by what it learned from"):
        read_labeled(str(tmp_path), 3)
    assert len(read_labeled(str(tmp_path), 3, training=True).split) == 6


@pytest.mark.parametrize("names", [("images", "labels"), ("x_test", "y_test")])
def test_an_npz_needs_no_training_half(tmp_path: Path, names: tuple[str, str]) -> None:
    np.savez(tmp_path / "d.npz", **dict(zip(names, (PIXELS, LABELS), strict=True)))
    found = read_labeled(str(tmp_path / "d.npz"), 3)
    assert found.classes is None
    assert found.split.labels.tolist() == LABELS.tolist()


def test_arrays_beside_each_other_with_names(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", PIXELS[..., 0])
    np.save(tmp_path / "labels.npy", LABELS)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    found = read_labeled(str(tmp_path), 1)
    assert found.classes == ("cat", "dog")
    assert found.split.images.get([2])[0].shape == (5, 7, 1)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (PIXELS.astype(np.float32), LABELS, "not uint8"),
        (PIXELS.transpose(0, 3, 1, 2), LABELS, "channels last"),
        (PIXELS, LABELS[:-1], "5 labels for 6 images"),
        (PIXELS, LABELS - 1, "number from 0"),
        (PIXELS, LABELS.astype(float), "not integers"),
        (PIXELS[:0], LABELS[:0], "images are"),
    ],
)
def test_arrays_that_cannot_be_images_and_labels_are_refused(
    tmp_path: Path, images: np.ndarray, labels: np.ndarray, message: str
) -> None:
    np.savez(tmp_path / "d.npz", images=images, labels=labels)
    with pytest.raises(DataError, match=message):
        read_labeled(str(tmp_path / "d.npz"), 3)


def test_a_truncated_array_and_a_pickle_are_clear_errors(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", PIXELS)
    np.save(tmp_path / "labels.npy", LABELS)
    whole = (tmp_path / "images.npy").read_bytes()
    (tmp_path / "images.npy").write_bytes(whole[:-50])
    with pytest.raises(DataError, match=r"not a readable \.npy"):
        read_labeled(str(tmp_path), 3)
    np.save(tmp_path / "images.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(DataError, match=r"not a readable \.npy"):
        read_labeled(str(tmp_path), 3)


def test_what_is_not_there_names_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels\.npy"):
        read_labeled(str(tmp_path / "nowhere"), 3)
