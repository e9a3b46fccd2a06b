"""The kernels for synthetic images against NumPy, at their limits, and their gradients."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch

from edgekd.distill.kernels.synthesize import (
    image_norm,
    negative_activation,
    negative_entropy,
    own_answer,
    statistics_mismatch,
    total_variation,
)
from tests.distill.methods.answers import softmax

RNG = np.random.default_rng(8)
LOGITS = 2 * RNG.normal(size=(6, 5))
IMAGES = RNG.normal(size=(3, 2, 5, 4))


def test_own_answer_is_the_cross_entropy_with_the_largest_class() -> None:
    expected = -np.log(softmax(LOGITS).max(axis=1)).mean()
    assert float(own_answer(torch.from_numpy(LOGITS))) == pytest.approx(expected, rel=1e-12)


def test_activation_is_the_mean_of_absolute_features() -> None:
    assert float(negative_activation(torch.from_numpy(LOGITS))) == pytest.approx(-np.abs(LOGITS).mean())


def test_entropy_is_that_of_the_mean_prediction() -> None:
    mean = softmax(LOGITS).mean(axis=0)
    expected = (mean * np.log(mean)).sum()
    assert float(negative_entropy(torch.from_numpy(LOGITS))) == pytest.approx(expected, rel=1e-12)


def test_entropy_is_least_for_even_classes_and_zero_for_a_single_one() -> None:
    even, single = torch.eye(5) * 100, torch.eye(5)[[2] * 5] * 100
    assert float(negative_entropy(even)) == pytest.approx(-math.log(5), rel=1e-6)
    assert float(negative_entropy(single)) == pytest.approx(0.0, abs=1e-6)


def test_entropy_of_a_class_that_nobody_predicts_has_a_finite_gradient() -> None:
    logits = (torch.eye(5)[[0, 1, 0, 1]] * 1e4).requires_grad_(True)
    (gradient,) = torch.autograd.grad(negative_entropy(logits), logits)
    assert bool(gradient.isfinite().all())


def differences(image: npt.NDArray[np.float64], down: int, right: int) -> float:
    """L2 norm of pixel(i, j) - pixel(i + down, j + right) over all that have that neighbor, by loops."""
    _, height, width = image.shape
    squares = 0.0
    for i in range(height):
        for j in range(width):
            if 0 <= i + down < height and 0 <= j + right < width:
                squares += float(((image[:, i, j] - image[:, i + down, j + right]) ** 2).sum())
    return math.sqrt(squares)


def test_total_variation_compares_with_four_neighbors() -> None:
    neighbors = [(0, 1), (1, 0), (1, 1), (1, -1)]
    expected = np.mean([sum(differences(image, *step) for step in neighbors) for image in IMAGES])
    assert float(total_variation(torch.from_numpy(IMAGES))) == pytest.approx(expected, rel=1e-12)


def test_total_variation_of_even_images_is_zero_with_a_finite_gradient() -> None:
    images = torch.full((2, 3, 4, 4), 0.7, requires_grad=True)
    (gradient,) = torch.autograd.grad(total_variation(images), images)
    assert float(total_variation(images).detach()) == 0.0
    assert bool(gradient.isfinite().all())


def test_total_variation_of_one_batch_is_the_authors_norm_divided_by_the_root_of_its_size() -> None:
    """For images that are alike; so their 2.5e-5 at 256 images is 16 x 2.5e-5 = 4e-4 here."""
    batch = np.repeat(IMAGES[:1], 256, axis=0)
    across, down = batch[..., :-1] - batch[..., 1:], batch[:, :, :-1] - batch[:, :, 1:]
    rising = batch[:, :, 1:, :-1] - batch[:, :, :-1, 1:]
    falling = batch[:, :, :-1, :-1] - batch[:, :, 1:, 1:]
    authors = sum(np.sqrt((each**2).sum()) for each in (across, down, rising, falling))
    assert 4e-4 * float(total_variation(torch.from_numpy(batch))) == pytest.approx(2.5e-5 * authors)


def test_image_norm_is_the_mean_length_of_an_image() -> None:
    expected = np.sqrt((IMAGES**2).sum(axis=(1, 2, 3))).mean()
    assert float(image_norm(torch.from_numpy(IMAGES))) == pytest.approx(expected, rel=1e-12)


SIZES = (2, 3)
INPUTS = [RNG.normal(size=(4, channels, 3, 3)) + 5 for channels in SIZES]
MEANS = [RNG.normal(size=channels) for channels in SIZES]
VARIANCES = [RNG.uniform(0.5, 2, size=channels) for channels in SIZES]


def moments() -> npt.NDArray[np.float64]:
    centered = [x - mean[:, None, None] for x, mean in zip(INPUTS, MEANS, strict=True)]
    first = [x.mean(axis=(2, 3)) for x in centered]
    second = [(x**2).mean(axis=(2, 3)) for x in centered]
    return np.concatenate([*first, *second], axis=1)


def test_statistics_mismatch_is_the_distance_of_means_and_variances_layer_by_layer() -> None:
    expected = sum(
        np.linalg.norm(x.mean(axis=(0, 2, 3)) - mean) + np.linalg.norm(x.var(axis=(0, 2, 3)) - variance)
        for x, mean, variance in zip(INPUTS, MEANS, VARIANCES, strict=True)
    )
    variances = torch.from_numpy(np.concatenate(VARIANCES))
    actual = statistics_mismatch(torch.from_numpy(moments()), variances, SIZES)
    assert float(actual) == pytest.approx(expected, rel=1e-12)


def test_gradients_pass_finite_differences() -> None:
    variances = torch.from_numpy(np.concatenate(VARIANCES))
    logits, images, statistics = (
        torch.from_numpy(values).requires_grad_(True) for values in (LOGITS, IMAGES, moments())
    )
    assert torch.autograd.gradcheck(own_answer, (logits,))
    assert torch.autograd.gradcheck(negative_entropy, (logits,))
    assert torch.autograd.gradcheck(total_variation, (images,))
    assert torch.autograd.gradcheck(image_norm, (images,))
    assert torch.autograd.gradcheck(lambda m: statistics_mismatch(m, variances, SIZES), (statistics,))
