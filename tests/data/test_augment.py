import numpy as np
import pytest
import torch
from torch import Tensor

from edgekd.data import augment as on_tensors
from edgekd.data.augment import Augment, draw, rows_of, to_float
from edgekd.data.catalogue import SOURCES
from tests.data.making import random_pixels

EVERYTHING = Augment(
    flip=True,
    flip_vertical=True,
    shift=2,
    rotate_degrees=20,
    scale=0.2,
    brightness=0.3,
    contrast=0.3,
    cutout=3,
)


def batch(count: int = 64, channels: int = 3, height: int = 8, width: int = 10) -> Tensor:
    return torch.from_numpy(random_pixels(count, channels, height, width))


def augment(images: Tensor, settings: Augment, seed: int) -> Tensor:
    """Each image with the draws of its own row."""
    return on_tensors.augment(images, settings, draw(settings, len(images), seed))


@pytest.mark.parametrize("channels", [1, 3])
def test_any_mixture_keeps_shape_range_and_type(channels: int) -> None:
    x = augment(batch(channels=channels), EVERYTHING, seed=0)
    assert x.shape == (64, channels, 8, 10)
    assert x.dtype == torch.float32
    assert 0 <= float(x.min()) <= float(x.max()) <= 1


def test_nothing_on_changes_nothing() -> None:
    assert torch.equal(augment(batch(), Augment(), 0), to_float(batch()))
    np.testing.assert_array_equal(
        to_float(batch()).numpy(), batch().numpy().astype(np.float32) / np.float32(255)
    )


def test_the_seed_alone_decides() -> None:
    torch.manual_seed(1)
    first = augment(batch(), EVERYTHING, seed=7)
    torch.manual_seed(2)
    assert torch.equal(first, augment(batch(), EVERYTHING, seed=7))
    assert not torch.equal(first, augment(batch(), EVERYTHING, seed=8))


@pytest.mark.parametrize("batch_size", [1, 3, 33])
@pytest.mark.parametrize("size", [(8, 10), (110, 120)])
def test_what_happens_to_an_image_does_not_depend_on_its_batch(
    batch_size: int, size: tuple[int, int]
) -> None:
    """Also where one image is so large that torch divides its sum among threads."""
    images, draws = batch(height=size[0], width=size[1]), draw(EVERYTHING, 64, 3)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        whole = on_tensors.augment(images, EVERYTHING, draws)
        parts = [
            on_tensors.augment(images[rows], EVERYTHING, rows_of(draws, rows))
            for rows in torch.split(order, batch_size)
        ]
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.cat(parts), whole[order])


def test_a_further_setting_changes_no_draw_of_the_others() -> None:
    alone, among = draw(Augment(shift=2), 64, 3), draw(EVERYTHING, 64, 3)
    assert alone.keys() == {"shift_rows", "shift_columns"}
    assert all(torch.equal(column, among[name]) for name, column in alone.items())


def test_the_draws_of_an_image_are_a_few_bytes() -> None:
    draws = draw(EVERYTHING, 1000, 0)
    assert all(column.shape == (1000,) for column in draws.values())
    assert sum(column.element_size() for column in draws.values()) < 50


def test_the_global_generator_is_not_touched() -> None:
    before = torch.get_rng_state()
    augment(batch(), EVERYTHING, seed=7)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("key", "axis"), [("flip", 3), ("flip_vertical", 2)])
def test_half_of_the_images_are_mirrored(key: str, axis: int) -> None:
    plain = to_float(batch(400))
    x = augment(batch(400), Augment.model_validate({key: True}), 0)
    same = (x == plain).flatten(1).all(1)
    mirrored = (x == plain.flip(axis)).flatten(1).all(1)
    assert bool((same ^ mirrored).all())
    assert 150 < int(mirrored.sum()) < 250


def test_a_shift_moves_by_whole_pixels_and_fills_with_black() -> None:
    images = batch(300)
    x = augment(images, Augment(shift=2), 0)
    padded = np.pad(to_float(images).numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)))
    seen = set()
    for number in range(300):
        matches = [
            (dy, dx)
            for dy in range(5)
            for dx in range(5)
            if np.array_equal(x[number].numpy(), padded[number, :, dy : dy + 8, dx : dx + 10])
        ]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) == 25, "every shift from -2 to 2 in both directions occurs"


def test_rotation_by_nothing_is_the_identity() -> None:
    x = augment(batch(), Augment(rotate_degrees=1e-4), 0)
    torch.testing.assert_close(x, to_float(batch()), atol=1e-3, rtol=0)


def test_rotation_keeps_distances_in_images_that_are_not_square() -> None:
    y, x = np.mgrid[0:40, 0:80]
    disc = (((y - 19.5) ** 2 + (x - 39.5) ** 2) < 12**2).astype(np.uint8) * 255
    images = torch.from_numpy(disc).expand(16, 1, 40, 80).contiguous()
    turned = augment(images, Augment(rotate_degrees=180), 3)
    assert float((turned - to_float(images)).abs().mean()) < 0.01


def test_zoom_changes_the_area_both_ways() -> None:
    square = torch.zeros(200, 1, 32, 32, dtype=torch.uint8)
    square[:, :, 12:20, 12:20] = 255
    areas = augment(square, Augment(scale=0.5), 0).sum(dim=(1, 2, 3)) / 64
    assert 0.4 < float(areas.min()) < 0.7
    assert 1.5 < float(areas.max()) < 2.3


def test_brightness_multiplies_within_its_bounds() -> None:
    gray = torch.full((200, 1, 4, 4), 100, dtype=torch.uint8)
    factors = augment(gray, Augment(brightness=0.2), 0).mean(dim=(1, 2, 3)) * 255 / 100
    assert 0.8 - 1e-5 <= float(factors.min()) < 0.85
    assert 1.15 < float(factors.max()) <= 1.2 + 1e-5


def test_contrast_keeps_the_mean() -> None:
    gentle = (batch(50) // 4) + 96
    x = augment(gentle, Augment(contrast=0.5), 0)
    torch.testing.assert_close(x.mean(dim=(1, 2, 3)), to_float(gentle).mean(dim=(1, 2, 3)), atol=1e-5, rtol=0)
    assert not torch.equal(x, to_float(gentle))


def test_cutout_blanks_one_square_an_image() -> None:
    black = torch.zeros(200, 3, 12, 12, dtype=torch.uint8)
    x = augment(black, Augment(cutout=4), 0)
    assert set(x.flatten().tolist()) == {0.0, 0.5}
    areas = (x[:, 0] == 0.5).sum(dim=(1, 2))
    assert int(areas.max()) == 16
    assert int(areas.min()) >= 4, "the square's center lies inside the image"


@pytest.mark.parametrize("name", SOURCES.names())
def test_the_default_of_every_source_runs(name: str) -> None:
    source = SOURCES.load(name).model_construct()
    settings = source.default_augment((32, 32))
    assert augment(batch(height=32, width=32), settings, 0).shape == (64, 3, 32, 32)
    assert not (name == "digits" and settings.flip), "a mirrored digit is another digit"
