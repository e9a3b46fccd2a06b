"""Counting right answers, alone and in pairs; no broken answer may count as a right one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekd.core.errors import DataError, ModelError, UsageError
from edgekd.measure import accuracy

NAMES = ("cat", "dog", "eel")
LABELS = np.array([0, 0, 1, 1, 2, 2])


def test_prediction_is_the_first_of_equal_maxima() -> None:
    assert accuracy.predictions(np.array([[1, 3, 3], [2, 2, 0]], np.float32)).tolist() == [1, 0]


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_never_right(broken: float) -> None:
    logits = np.zeros((3, 3), np.float32)
    logits[:, 0] = 9
    logits[1, 2] = broken
    predicted = accuracy.predictions(logits)
    found = accuracy.accuracy(predicted, np.zeros(3, np.int64))
    assert found.value == pytest.approx(2 / 3)
    assert "1 images" in found.notes[0]


def test_answers_in_other_classes_are_told_in_those_of_the_data() -> None:
    logits = np.array([[5, 1], [1, 5], [np.nan, 1]], np.float32)
    assert accuracy.predictions(logits, ("eel", "cat"), NAMES).tolist() == [2, 0, accuracy.NOT_FINITE]
    assert accuracy.predictions(logits, ("cat", "dog"), ("cat", "dog")).tolist() == [0, 1, -1]
    with pytest.raises(UsageError, match="class `gnu` is not among the 3"):
        accuracy.predictions(logits, ("eel", "gnu"), NAMES)


def test_two_broken_answers_do_not_agree() -> None:
    broken = np.array([accuracy.NOT_FINITE, 1])
    assert accuracy.agreement(broken, broken).value == 0.5


def test_recalls() -> None:
    predicted = np.array([0, 0, 1, 0, 0, 0])
    macro = accuracy.macro_recall(predicted, LABELS, NAMES)
    worst = accuracy.worst_class_recall(predicted, LABELS, NAMES)
    assert macro.value == pytest.approx((1 + 0.5 + 0) / 3)
    assert (worst.value, worst.detail["worst"]) == (0, "eel")
    assert macro.detail["per_class"]["dog"] == {"correct": 1, "n": 2, "recall": 0.5}


def test_a_class_without_images_makes_recalls_invalid() -> None:
    labels = np.array([0, 0, 1])
    for found in (
        accuracy.macro_recall(labels, labels, NAMES),
        accuracy.worst_class_recall(labels, labels, NAMES),
    ):
        assert found.problems == ("no test image of class eel",)


def test_pairs_are_counted_on_the_same_images() -> None:
    before, after = np.array([0, 0, 1, 1, 0, 0]), np.array([0, 1, 1, 0, 2, 0])
    drop = accuracy.accuracy_drop(before, after, LABELS)
    assert drop.value == pytest.approx(1 / 6)
    assert (drop.detail["lost"], drop.detail["won"]) == (2, 1)
    assert accuracy.new_errors(before, after, LABELS).value == pytest.approx(2 / 6)
    assert accuracy.agreement(before, after).value == pytest.approx(3 / 6)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 3]), "0..3 for 3 classes"),
        (np.array([-1, 0]), "-1..0"),
        (np.array([0.5]), "integers"),
        (np.array([], np.int64), "integers"),
        (np.zeros((2, 2), np.int64), "integers"),
    ],
)
def test_impossible_labels_are_refused(tmp_path: Path, labels: np.ndarray, message: str) -> None:
    np.save(tmp_path / "labels.npy", labels)
    with pytest.raises(DataError, match=message):
        accuracy.read_labels(tmp_path, 3)


def test_pickled_labels_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="not a readable"):
        accuracy.read_labels(tmp_path, 3)


def test_logits_of_another_shape_are_refused() -> None:
    with pytest.raises(ModelError, match="6 images and 3 classes"):
        accuracy.check_logits(np.zeros((6, 4), np.float32), LABELS, 3, "student")
