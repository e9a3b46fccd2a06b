"""Variational information distillation: the Gaussian in NumPy, its limits, and what is learned."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from edgekd.distill.methods.feature.vid import Variational, gaussian_nll
from edgekd.testing.tiny_networks import tiny_batch
from edgekd.testing.tiny_runs import engine_of, train

Array = npt.NDArray[np.float64]
RNG = np.random.default_rng(8)
MEAN, TARGET = RNG.normal(size=(3, 4, 2, 2)), RNG.normal(size=(3, 4, 2, 2))
VARIANCE = np.array([0.2, 1.0, 3.0, 7.0])


def nll(mean: Array, variance: Array, target: Array) -> float:
    return float(gaussian_nll(*(torch.from_numpy(array) for array in (mean, variance, target))))


def test_value_is_the_mean_negative_log_density_without_its_constant() -> None:
    total = 0.0
    for (b, c, i, j), t in np.ndenumerate(TARGET):
        density = np.exp(-((t - MEAN[b, c, i, j]) ** 2) / (2 * VARIANCE[c])) / np.sqrt(
            2 * np.pi * VARIANCE[c]
        )
        total -= np.log(density) + 0.5 * np.log(2 * np.pi)
    assert nll(MEAN, VARIANCE, TARGET) == pytest.approx(total / TARGET.size, rel=1e-12)


def test_a_mean_that_hits_the_target_leaves_the_log_variance() -> None:
    assert nll(TARGET, VARIANCE, TARGET) == pytest.approx(0.5 * np.log(VARIANCE).mean(), rel=1e-12)


def test_best_variance_of_a_channel_is_its_mean_squared_error() -> None:
    best = ((TARGET - MEAN) ** 2).mean(axis=(0, 2, 3))
    value = nll(MEAN, best, TARGET)
    assert value == pytest.approx(0.5 * (1 + np.log(best).mean()), rel=1e-12)
    assert all(nll(MEAN, best * factor, TARGET) > value for factor in (0.8, 1.25))


def test_unit_variance_is_half_the_mean_squared_error() -> None:
    assert nll(MEAN, np.ones(4), TARGET) == pytest.approx(0.5 * ((TARGET - MEAN) ** 2).mean(), rel=1e-12)


@pytest.mark.parametrize("first", [1e-3, 1.0, 5.0, 500.0])
def test_variance_starts_where_the_settings_say(first: float) -> None:
    variance = Variational(3, 4, first, 1e-5).variance()
    np.testing.assert_allclose(variance.detach().numpy(), np.full(4, first), rtol=1e-4)


def test_variance_stays_above_eps_and_finite_for_any_alpha() -> None:
    module = Variational(3, 2, 5.0, 1e-5)
    with torch.no_grad():
        module.alpha.copy_(torch.tensor([-1e4, 1e4]))
    assert module.variance().tolist() == pytest.approx([1e-5, 1e4])


def test_larger_map_is_average_pooled_the_students_before_the_mean() -> None:
    module = Variational(3, 4, 5.0, 1e-5).double()
    large, target = RNG.normal(size=(3, 3, 4, 4)), torch.from_numpy(TARGET)
    pooled = torch.from_numpy(large.reshape(3, 3, 2, 2, 2, 2).mean(axis=(3, 5)))
    torch.testing.assert_close(module(torch.from_numpy(large), target), module(pooled, target))
    repeated = target.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(module(pooled, repeated), module(pooled, target))


def test_vectors_are_maps_of_one_position() -> None:
    module = Variational(3, 4, 5.0, 1e-5).double()
    student, teacher = torch.from_numpy(RNG.normal(size=(5, 3))), torch.from_numpy(RNG.normal(size=(5, 4)))
    expected = module(student[:, :, None, None], teacher[:, :, None, None])
    assert module(student, teacher).equal(expected)


def test_gradient_of_mean_and_alpha_passes_finite_differences() -> None:
    def value(mean: Tensor, alpha: Tensor) -> Tensor:
        variance = torch.nn.functional.softplus(alpha) + 1e-5
        return gaussian_nll(mean, variance, torch.from_numpy(TARGET))

    mean, alpha = torch.from_numpy(MEAN), torch.from_numpy(np.log(VARIANCE))
    assert torch.autograd.gradcheck(value, (mean.requires_grad_(True), alpha.requires_grad_(True)))


def test_student_and_mean_learn_to_predict_the_teacher() -> None:
    """The term itself falls slowly (see the card); the squared error within it falls by a third and more."""
    engine = engine_of("vid")

    def error() -> float:
        images, taps, total = tiny_batch(0).views["x"], ("stage1", "stage2", "stage3"), 0.0
        with torch.no_grad():
            student, teacher = (engine.roles[role].run(images, taps) for role in ("student", "teacher"))
            for tap in taps:
                module = engine.adapters["vid"][tap]
                assert isinstance(module, Variational)
                total += float((module.mean(student[tap]) - teacher[tap]).pow(2).mean())
        return total

    before = error()
    train(engine, 60)
    assert error() < 0.65 * before
