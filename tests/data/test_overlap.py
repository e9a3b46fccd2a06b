"""Images that stand more than once."""

from __future__ import annotations

import numpy as np

from edgekd.data.overlap import contradictions, copies, prints, shared

IMAGES = np.random.default_rng(0).integers(0, 256, (8, 24, 24, 3), dtype=np.uint8)


def test_copies_count_all_but_the_first() -> None:
    assert copies(prints(IMAGES)) == 0
    assert copies(prints(IMAGES[[0, 1, 0, 0, 2, 2]])) == 3


def test_equal_images_of_two_classes_contradict_each_other() -> None:
    found = prints(IMAGES[[0, 1, 0, 2, 2]])
    assert contradictions(found, np.array([0, 1, 1, 2, 2])) == [0, 2]


def test_test_images_are_found_in_training_exactly_and_nearly() -> None:
    brighter = np.clip(IMAGES[2:3].astype(int) + 3, 0, 255).astype(np.uint8)
    train = np.concatenate([IMAGES[:1], brighter, IMAGES[5:]])
    assert shared(prints(IMAGES[:5]), prints(train)) == (1, 1)
    assert shared(prints(IMAGES[:4]), prints(IMAGES[4:])) == (0, 0)
