import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from edgekd.core.errors import DataError, UsageError
from edgekd.data.array_images import ArrayImages
from edgekd.data.split import Dataset, Image, Split
from tests.data.making import array_split, random_pixels


def test_equal_content_has_an_equal_digest_wherever_it_lies() -> None:
    split = array_split()
    rows = np.arange(len(split))
    copied = ArrayImages(random_pixels(40, 8, 8, 3)[:20].copy(), rows)
    whole = Split("other name", copied, split.labels.copy())
    assert whole.digest() == Split("x", ArrayImages(copied.array()), split.labels).digest()


def test_digest_depends_on_pixels_labels_and_order() -> None:
    split = array_split()
    assert isinstance(split.images, ArrayImages)
    pixels = split.images.array().copy()
    pixels[3, 0, 0, 0] ^= 1
    labels = split.labels.copy()
    labels[3] ^= 1
    order = np.arange(len(split))[::-1].copy()
    variants = [
        dataclasses.replace(split, images=ArrayImages(pixels)),
        dataclasses.replace(split, labels=labels),
        Split("train", split.images.take(order), split.labels[order]),
    ]
    digests = {split.digest(), *(variant.digest() for variant in variants)}
    assert len(digests) == 4


def test_digest_tells_shapes_apart() -> None:
    pixels, labels = random_pixels(4, 2, 8, 3), np.zeros(4, np.int64)
    turned = pixels.reshape(4, 8, 2, 3)
    assert (
        Split("a", ArrayImages(pixels), labels).digest() != Split("a", ArrayImages(turned), labels).digest()
    )


def test_a_part_of_a_part_counts_from_the_part() -> None:
    images = ArrayImages(random_pixels(10, 2, 2, 1))
    part = images.take(np.array([9, 5, 7])).take(np.array([2, 0]))
    np.testing.assert_array_equal(part.array(), images.array()[[7, 9]])
    np.testing.assert_array_equal(part.get([1])[0], images.array()[9])


class Counting:
    """The images of an array, counting how often some are asked for."""

    def __init__(self, pixels: npt.NDArray[np.uint8]) -> None:
        self.images = ArrayImages(pixels)
        self.calls = 0

    def __len__(self) -> int:
        return len(self.images)

    def get(self, indices: Sequence[int]) -> list[Image]:
        self.calls += 1
        return self.images.get(indices)

    def take(self, rows: npt.NDArray[np.int64]) -> ArrayImages:
        return self.images.take(rows)


def test_a_digest_asks_for_images_in_bulk() -> None:
    images = Counting(random_pixels(3000, 2, 2, 1))
    digest = Split("a", images, np.zeros(3000, np.int64)).digest()
    assert images.calls <= 3
    assert digest == Split("a", images.images, np.zeros(3000, np.int64)).digest()


# ---- Some of the classes -------------------------------------------------------------------------


def of_three_classes(*, val: Sequence[int] = (0, 1, 2)) -> Dataset:
    """Every image is filled with ten times its label."""

    def split(name: str, labels: Sequence[int]) -> Split:
        numbers = np.array(labels, np.int64)
        pixels = np.broadcast_to((10 * numbers)[:, None, None, None], (len(numbers), 2, 2, 1))
        ids = tuple(f"{name}{row}" for row in range(len(numbers)))
        return Split(name, ArrayImages(pixels.astype(np.uint8)), numbers, ids)

    return Dataset(
        train=split("train", [0, 1, 2, 2, 1, 0]),
        val=split("val", val),
        calibration=split("calibration", [2, 1]),
        test=split("test", [0]),
        classes=("cat", "dog", "eel"),
        channels=1,
        image_size=(2, 2),
        unlabeled=split("unlabeled", [-1, -1]),
    )


def test_some_of_the_classes_are_numbered_in_their_own_order() -> None:
    dataset = of_three_classes()
    part = dataset.of_classes(("eel", "cat"))
    assert part.classes == ("eel", "cat")
    assert part.train.labels.tolist() == [1, 0, 0, 1]
    assert [int(image[0, 0, 0]) for image in part.train.images.get(range(4))] == [0, 20, 20, 0]
    assert part.train.ids == ("train0", "train2", "train3", "train5")
    assert [len(split) for split in part.splits] == [4, 2, 1, 1, 2], "unlabeled images are of no class"
    assert dataset.of_classes(dataset.classes).digest() == dataset.digest()


def test_a_class_that_the_data_lack_is_named() -> None:
    with pytest.raises(UsageError, match=r"(?s)class `gnu` is not among the 3.*cat, dog, eel"):
        of_three_classes().of_classes(("eel", "gnu"))


def test_classes_without_an_image_to_validate_on_are_refused() -> None:
    with pytest.raises(DataError, match="val: no image of the classes dog, eel"):
        of_three_classes(val=[0, 0]).of_classes(("dog", "eel"))
