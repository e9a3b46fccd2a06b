"""Laws of how batches are made up and of pairs, for any labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.data.sampling import Rows, class_uniform, same_class

LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=60).map(lambda found: np.array(found, np.int64))
SIZES = st.lists(st.integers(1, 20), min_size=1, max_size=12)


def batches(rows: Rows, sizes: list[int]) -> list[Rows]:
    return np.split(rows, np.cumsum(sizes)[:-1])


@given(LABELS, SIZES, st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_a_batch_holds_its_classes_in_equal_parts(labels: Rows, sizes: list[int], seed: int) -> None:
    num_classes = len(np.unique(labels))
    rows = class_uniform(labels, sizes, seed)
    assert len(rows) == sum(sizes)
    for batch, size in zip(batches(rows, sizes), sizes, strict=True):
        _, counts = np.unique(labels[batch], return_counts=True)
        assert counts.max() - counts.min() <= 1
        if size >= num_classes:
            assert len(counts) == num_classes
        else:
            assert len(counts) == max(1, size // 2) and counts.min() >= min(2, size)


@given(LABELS, SIZES, st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_images_are_repeated_fairly(labels: Rows, sizes: list[int], seed: int) -> None:
    """Within a class the numbers of visits differ by one at most."""
    visits = np.bincount(class_uniform(labels, sizes, seed), minlength=len(labels))
    for label in np.unique(labels):
        of_class = visits[labels == label]
        assert of_class.max() - of_class.min() <= 1


@given(LABELS, SIZES, st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_an_image_is_twice_in_a_batch_only_where_its_class_has_too_few(
    labels: Rows, sizes: list[int], seed: int
) -> None:
    for batch in batches(class_uniform(labels, sizes, seed), sizes):
        for label in np.unique(labels[batch]):
            of_class = batch[labels[batch] == label]
            if len(of_class) <= (labels == label).sum():
                assert len(set(of_class)) == len(of_class)


def test_classes_take_turns_where_a_batch_has_no_room_for_all() -> None:
    labels = np.arange(100) % 10
    seen = np.bincount(labels[class_uniform(labels, [6] * 10, 0)], minlength=10)
    assert seen.tolist() == [6] * 10, "three classes a batch, each in three of the ten"


def test_a_place_in_the_batch_says_nothing_of_the_class() -> None:
    labels = np.arange(1000) % 2
    first = labels[class_uniform(labels, [10] * 100, 0)][::10]
    assert 25 < first.sum() < 75


def test_the_seed_alone_decides_how_batches_are_made_up() -> None:
    labels = np.arange(50) % 3
    np.testing.assert_array_equal(class_uniform(labels, [9] * 5, 4), class_uniform(labels, [9] * 5, 4))
    assert (class_uniform(labels, [9] * 5, 4) != class_uniform(labels, [9] * 5, 5)).any()


@given(LABELS, st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_a_partner_is_another_image_of_the_same_class(labels: Rows, seed: int) -> None:
    partners = same_class(labels, seed)
    np.testing.assert_array_equal(labels[partners], labels)
    alone = np.bincount(labels)[labels] == 1
    np.testing.assert_array_equal(partners == np.arange(len(labels)), alone)


def test_every_other_image_of_the_class_is_as_likely_a_partner() -> None:
    labels = np.array([0, 1, 0, 1, 0, 0])
    counts = np.bincount([same_class(labels, seed)[2] for seed in range(600)], minlength=6)
    assert counts[[1, 2, 3]].tolist() == [0, 0, 0]
    assert counts[[0, 4, 5]].min() > 150


@pytest.mark.parametrize("seed", [0, 1])
def test_pairs_depend_on_the_seed_alone(seed: int) -> None:
    labels = np.arange(60) % 4
    np.testing.assert_array_equal(same_class(labels, seed), same_class(labels, seed))
    assert (same_class(labels, 0) != same_class(labels, 1)).mean() > 0.5
