"""The response kernels against NumPy float64 derivations and the surveys' equations 1 to 9."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from edgekd.distill.kernels.respond import kl, soft_cross_entropy, squared_error

Array = npt.NDArray[np.float64]
RNG = np.random.default_rng(0)
STUDENT, TEACHER = RNG.normal(size=(2, 64, 10)) * 3
LABELS = RNG.integers(10, size=64)


def softmax(logits: Array, temperature: float = 1.0) -> Array:
    scaled = logits / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def our_kl(student: Array, teacher: Array, temperature: float) -> float:
    target = torch.from_numpy(softmax(teacher, temperature))
    return float(kl(torch.from_numpy(student), target, temperature))


def gradient(student: Array, teacher: Array, temperature: float) -> Array:
    """Of our KL by the student's logits."""
    logits = torch.from_numpy(student).requires_grad_(True)
    kl(logits, torch.from_numpy(softmax(teacher, temperature)), temperature).backward()
    assert logits.grad is not None
    return logits.grad.numpy()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_kl_is_the_sum_over_classes_and_the_mean_over_the_batch(temperature: float) -> None:
    p, q = softmax(TEACHER, temperature), softmax(STUDENT, temperature)
    expected = temperature**2 * (p * np.log(p / q)).sum() / len(p)
    assert our_kl(STUDENT, TEACHER, temperature) == pytest.approx(expected, rel=1e-12)


def test_kl_is_c_times_the_mean_over_all_elements() -> None:
    p, q = softmax(TEACHER), softmax(STUDENT)
    assert our_kl(STUDENT, TEACHER, 1.0) == pytest.approx(10 * (p * np.log(p / q)).mean(), rel=1e-12)


def test_kl_is_zero_at_match_and_positive_and_asymmetric_otherwise() -> None:
    assert our_kl(TEACHER, TEACHER, 4.0) == pytest.approx(0.0, abs=1e-12)
    there, back = our_kl(STUDENT, TEACHER, 1.0), our_kl(TEACHER, STUDENT, 1.0)
    assert there > 0 and back > 0 and abs(there - back) > 1e-3


def test_kl_accepts_targets_with_zeros() -> None:
    target = F.one_hot(torch.from_numpy(LABELS), 10).double()
    expected = F.cross_entropy(torch.from_numpy(STUDENT), torch.from_numpy(LABELS))
    assert float(kl(torch.from_numpy(STUDENT), target)) == pytest.approx(float(expected), rel=1e-12)


@given(shift=st.floats(-50, 50), temperature=st.floats(0.5, 20))
def test_kl_ignores_a_constant_added_to_the_logits(shift: float, temperature: float) -> None:
    assert our_kl(STUDENT + shift, TEACHER, temperature) == pytest.approx(
        our_kl(STUDENT, TEACHER, temperature), rel=1e-9
    )


@pytest.mark.parametrize("temperature", [1.0, 4.0, 16.0])
def test_gradient_is_equation_4_times_the_squared_temperature(temperature: float) -> None:
    """Survey 1, equation 4: (p_s - p_t) / T, here with T^2 and the mean over the batch."""
    expected = (softmax(STUDENT, temperature) - softmax(TEACHER, temperature)) * temperature / len(STUDENT)
    np.testing.assert_allclose(gradient(STUDENT, TEACHER, temperature), expected, atol=1e-15)


def test_gradient_keeps_its_size_from_temperature_4_to_16() -> None:
    """Measured 1.02; without T^2 it is 16.4."""
    sizes = [np.linalg.norm(gradient(STUDENT, TEACHER, temperature)) for temperature in (4.0, 16.0)]
    assert 0.8 < sizes[0] / sizes[1] < 1.25


@pytest.mark.parametrize("temperature", [100.0, 1000.0])
def test_high_temperature_taylor_gradient_errs_by_one_over_t(temperature: float) -> None:
    """Survey 1, equation 5: the relative error falls tenfold when T grows tenfold."""

    def error(t: float) -> float:
        n = STUDENT.shape[1]
        student = (1 + STUDENT / t) / (n + STUDENT.sum(axis=1, keepdims=True) / t)
        teacher = (1 + TEACHER / t) / (n + TEACHER.sum(axis=1, keepdims=True) / t)
        exact = gradient(STUDENT, TEACHER, t) * len(STUDENT) / t
        return float(np.linalg.norm((student - teacher) - exact) / np.linalg.norm(exact))

    assert 0.08 < error(10 * temperature) / error(temperature) < 0.125


def test_infinite_temperature_is_logit_regression_for_centered_logits() -> None:
    """Survey 1, equation 6: T^2 KL -> ||z_s - z_t||^2 / (2 N), which is `squared_error` / N."""
    student = STUDENT - STUDENT.mean(axis=1, keepdims=True)
    teacher = TEACHER - TEACHER.mean(axis=1, keepdims=True)
    limit = float(squared_error(torch.from_numpy(student), torch.from_numpy(teacher))) / 10
    errors = [abs(our_kl(student, teacher, t) / limit - 1) for t in (100.0, 1000.0)]
    assert errors[0] < 0.2 and errors[1] < 0.02


def test_infinite_temperature_is_not_logit_regression_for_shifted_logits() -> None:
    shifted = STUDENT + 5
    limit = float(squared_error(torch.from_numpy(shifted), torch.from_numpy(TEACHER))) / 10
    assert abs(our_kl(shifted, TEACHER, 1e4) / limit - 1) > 0.3


def test_squared_error_is_half_the_sum_over_classes() -> None:
    expected = 0.5 * ((STUDENT - TEACHER) ** 2).sum(axis=1).mean()
    actual = squared_error(torch.from_numpy(STUDENT), torch.from_numpy(TEACHER))
    assert float(actual) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_cross_entropy_is_kl_plus_the_targets_entropy(temperature: float) -> None:
    """Survey 1, equation 3."""
    p = softmax(TEACHER, temperature)
    entropy = -(p * np.log(p)).sum(axis=1).mean() * temperature**2
    actual = soft_cross_entropy(torch.from_numpy(STUDENT), torch.from_numpy(p), temperature)
    assert float(actual) == pytest.approx(our_kl(STUDENT, TEACHER, temperature) + entropy, rel=1e-12)


@pytest.mark.parametrize("divergence", [kl, soft_cross_entropy])
def test_gradients_pass_finite_differences(divergence: object) -> None:
    assert callable(divergence)
    student = torch.from_numpy(STUDENT[:3, :4]).requires_grad_(True)
    target = torch.from_numpy(softmax(TEACHER[:3, :4], 2.0))
    assert torch.autograd.gradcheck(lambda z: divergence(z, target, 2.0), (student,))
    assert torch.autograd.gradcheck(lambda z: squared_error(z, target), (student,))
