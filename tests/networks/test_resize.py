"""The torch preprocessing is the NumPy one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from edgekd.core.errors import ModelError
from edgekd.core.preprocess import Preprocess
from edgekd.networks.resize import Normalize

RNG = np.random.default_rng(0)


def batch(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def unscaled(size: tuple[int, int], channels: int, resize: str = "bilinear") -> Normalize:
    zero, one = (0.0,) * channels, (1.0,) * channels
    return Normalize(Preprocess.model_validate({"size": size, "mean": zero, "std": one, "resize": resize}))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scale", [1 / 255, 1.0])
def test_without_resizing_it_is_preprocess_apply(channels: int, scale: float) -> None:
    mean, std = (0.485, 0.456, 0.406)[:channels], (0.229, 0.224, 0.225)[:channels]
    preprocess = Preprocess(size=(5, 7), mean=mean, std=std, scale=scale)
    images = RNG.integers(0, 256, (4, 5, 7, channels), dtype=np.uint8)
    expected = preprocess.apply(images)
    result = Normalize(preprocess)(batch(images)).numpy()
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("resize", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(8, 8), (40, 24)])
def test_resizing_is_pillows_within_rounding(resize: str, size: tuple[int, int]) -> None:
    image = RNG.integers(0, 256, (16, 20, 3), dtype=np.uint8)
    filters = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    expected = np.asarray(Image.fromarray(image).resize(size[::-1], filters[resize]), np.float32)
    result = unscaled(size, 3, resize)(batch(image[None]))[0].permute(1, 2, 0).numpy() * 255
    assert np.abs(result - expected).max() <= 1.01


def test_nearest_is_pillows() -> None:
    image = RNG.integers(0, 256, (17, 21, 1), dtype=np.uint8)
    expected = np.asarray(
        Image.fromarray(image[:, :, 0]).resize((9, 7), Image.Resampling.NEAREST), np.float32
    )
    result = unscaled((7, 9), 1, "nearest")(batch(image[None]))[0, 0].numpy() * 255
    np.testing.assert_allclose(result, expected, atol=1e-4)


def test_gray_becomes_three_equal_channels() -> None:
    x = torch.rand(2, 1, 4, 4)
    assert torch.equal(unscaled((4, 4), 3)(x), x.expand(-1, 3, -1, -1))


def test_color_becomes_gray_as_pillow_does_it() -> None:
    image = RNG.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(image).convert("L"), np.float32)
    result = unscaled((6, 6), 1)(batch(image[None]))[0, 0].numpy() * 255
    assert np.abs(result - expected).max() <= 1.01


def test_gradients_pass_through() -> None:
    x = torch.rand(1, 3, 8, 8, requires_grad=True)
    unscaled((4, 4), 3)(x).sum().backward()
    assert x.grad is not None


def test_it_has_nothing_to_save_or_train() -> None:
    module = unscaled((4, 4), 3)
    assert module.state_dict() == {}
    assert not list(module.parameters())


def test_two_channels_are_an_error() -> None:
    with pytest.raises(ModelError, match="takes 3 channels and the batch has 2"):
        unscaled((4, 4), 3)(torch.rand(1, 2, 4, 4))
