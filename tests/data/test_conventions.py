"""Preprocessings that published weights expect."""

from __future__ import annotations

import numpy as np
import pytest

from edgekd.core.preprocess import Preprocess
from edgekd.data.conventions import conventions, of_images, written

GIVEN = Preprocess(size=(4, 4), mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5))


def test_the_conventions_do_to_a_white_pixel_what_they_say() -> None:
    white = np.full((1, 4, 4, 3), 255, np.uint8)
    ends = {words: one.apply(white).max() for words, one in conventions(GIVEN)}
    assert ends["inputs in [0, 1]"] == pytest.approx(1)
    assert ends["inputs in [-1, 1]"] == pytest.approx(1)
    assert ends["inputs in [0, 255]"] == pytest.approx(255)
    assert ends["inputs in [-128, 127]"] == pytest.approx(127)
    assert ends["ImageNet's mean and sd"] == pytest.approx((1 - 0.406) / 0.225, rel=1e-5)


def test_gray_images_have_no_imagenet_values() -> None:
    gray = Preprocess(size=(4, 4), mean=(0.5,), std=(0.5,))
    assert len(list(conventions(gray))) == 4


def test_the_images_own_values_center_and_scale_them() -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 4, 4, 3), dtype=np.uint8)
    found = of_images(GIVEN, images).apply(images)
    np.testing.assert_allclose(found.mean(axis=(0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(found.std(axis=(0, 2, 3)), 1, atol=1e-4)


def test_images_of_one_color_are_not_divided_by_zero() -> None:
    assert of_images(GIVEN, np.full((2, 4, 4, 3), 7, np.uint8)).std == (1.0, 1.0, 1.0)


def test_what_is_written_is_what_a_specification_takes() -> None:
    start = "preprocess: {mean: [0.1, 0.2, 0.3], std: [0.5, 0.5, 0.5], scale: 0.0039"
    assert written(GIVEN).startswith(start)
