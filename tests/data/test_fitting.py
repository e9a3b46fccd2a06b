"""How images come to a model's input size."""

from __future__ import annotations

import numpy as np
import pytest

from edgekd.data.fitting import Fitting

WIDE = np.zeros((20, 40, 3), np.uint8)
WIDE[:, :10] = 255  # a white bar at the left quarter


def test_stretching_ignores_the_aspect_ratio() -> None:
    found = Fitting(size=(20, 20), channels=3).apply(WIDE)
    assert found.shape == (20, 20, 3)
    assert (found[10, :4] == 255).all()
    assert (found[10, 6:] == 0).all()


def test_cropping_takes_the_middle_and_never_sees_the_bar() -> None:
    found = Fitting(size=(20, 20), channels=3, fit="crop", crop_share=1.0).apply(WIDE)
    np.testing.assert_array_equal(found, WIDE[:, 10:30])


def test_a_crop_of_seven_eighths_scales_the_shorter_side_to_256_for_224() -> None:
    ramp = np.linspace(0, 255, 512).astype(np.uint8)
    image = np.repeat(np.tile(ramp, (512, 1))[:, :, None], 3, axis=2)
    found = Fitting(size=(224, 224), channels=3, fit="crop").apply(image)
    assert found[0, 0, 0] == pytest.approx(255 * 16 / 256, abs=1.5)
    assert found[0, -1, 0] == pytest.approx(255 * 240 / 256, abs=1.5)


def test_padding_keeps_everything_on_black() -> None:
    found = Fitting(size=(20, 20), channels=3, fit="pad").apply(np.full((20, 40, 3), 200, np.uint8))
    assert (found[:5] == 0).all()
    assert (found[15:] == 0).all()
    assert (found[5:15] == 200).all()


def test_blue_comes_first_where_it_is_asked_for() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[..., 0] = 9
    assert (Fitting(size=(4, 4), channels=3, bgr=True).apply(image)[..., 2] == 9).all()


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 50, 1), (50, 3, 3), (8, 8, 1)])
def test_any_image_comes_to_the_size(fit: str, shape: tuple[int, int, int]) -> None:
    found = Fitting.model_validate({"size": (8, 8), "channels": 3, "fit": fit}).apply(
        np.ones(shape, np.uint8)
    )
    assert found.shape == (8, 8, 3)
