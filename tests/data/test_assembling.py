import numpy as np
import pytest

from edgekd.core.errors import DataError
from edgekd.data.array_images import ArrayImages
from edgekd.data.assembling import Part, Plan, assemble
from edgekd.data.split import Dataset
from tests.data.making import random_pixels

PLAN = Plan(seed=0, calibration=8)
SHAPE = (4, 4, 1)


def part(labels: list[int]) -> Part:
    return Part(ArrayImages(random_pixels(len(labels), *SHAPE)), np.array(labels, np.int64))


def assembled(train: list[int], classes: str = "ab", plan: Plan = PLAN, **others: Part) -> Dataset:
    return assemble("here", plan, tuple(classes), SHAPE, train=part(train), **others)


def test_calibration_is_a_seeded_part_of_train() -> None:
    first, again, other = (assembled([0, 1] * 50, plan=Plan(seed, 8)) for seed in (0, 0, 1))
    train = {image.tobytes() for image in first.train.images.get(range(len(first.train)))}
    assert all(image.tobytes() in train for image in first.calibration.images.get(range(8)))
    assert first.calibration.digest() == again.calibration.digest() != other.calibration.digest()


def test_splits_do_not_overlap_and_hold_everything() -> None:
    dataset = assembled([0, 1] * 50)
    seen = [
        image.tobytes()
        for split in (dataset.train, dataset.val, dataset.test)
        for image in split.images.get(range(len(split)))
    ]
    assert len(seen) == len(set(seen)) == 100
    assert (len(dataset.val), len(dataset.test)) == (10, 20)


def test_a_given_test_split_stays_whole_under_a_limit() -> None:
    dataset = assembled([0, 1] * 50, plan=Plan(0, 8, limit=40), test=part([0, 1] * 15))
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (36, 4, 30)


def test_one_class_is_refused() -> None:
    with pytest.raises(DataError, match="at least two"):
        assembled([0] * 10, classes="a")


def test_labels_out_of_range_are_named() -> None:
    with pytest.raises(DataError, match=r"outside 0\.\.1: 2 \(image 3\)"):
        assembled([0, 1, 0, 2, 1])


def test_negative_labels_are_refused() -> None:
    with pytest.raises(DataError, match="outside"):
        assembled([0, 1] * 10, test=part([0, -1]))


def test_a_class_that_train_lacks_is_an_error() -> None:
    with pytest.raises(DataError, match="train has no image of 1 classes: c"):
        assembled([0, 1] * 10, classes="abc")


def test_a_class_that_test_lacks_is_a_note() -> None:
    dataset = assembled([0, 1] * 20, test=part([0, 0]))
    assert any("test has no image of 1 classes: b" in note for note in dataset.notes)


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(DataError, match="split `test`: has no images"):
        assembled([0, 1] * 20, test=part([]))


def test_imbalance_is_a_note() -> None:
    dataset = assembled([0] * 300 + [1] * 20)
    assert any(note.startswith("imbalanced: train has") for note in dataset.notes)


def test_shares_that_leave_nothing_are_refused() -> None:
    with pytest.raises(DataError, match="110%"):
        assembled([0, 1] * 20, plan=Plan(0, 8, val_share=0.5, test_share=0.6))
