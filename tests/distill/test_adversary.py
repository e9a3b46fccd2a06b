"""The adversarial kernels against NumPy, their fixed points and their gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from edgekd.distill.kernels.adversary import Deception, deception, discrimination

RNG = np.random.default_rng(6)
REAL, FAKE = 2 * RNG.normal(size=(7, 1)), 2 * RNG.normal(size=(5, 1))


def sigmoid(
    scores: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.asarray(1 / (1 + np.exp(-scores)))


def test_discrimination_is_the_binary_cross_entropy_of_both_sides() -> None:
    expected = -np.log(sigmoid(REAL)).mean() - np.log(1 - sigmoid(FAKE)).mean()
    actual = discrimination(torch.from_numpy(REAL), torch.from_numpy(FAKE))
    assert float(actual) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("form", "expected"),
    [("non-saturating", -np.log(sigmoid(FAKE)).mean()), ("minimax", np.log(1 - sigmoid(FAKE)).mean())],
)
def test_deception_is_what_the_maker_of_the_fakes_minimizes(form: Deception, expected: float) -> None:
    assert float(deception(torch.from_numpy(FAKE), form)) == pytest.approx(expected, rel=1e-12)


def test_discrimination_of_what_cannot_be_told_apart_is_two_ln_two() -> None:
    """Its least value where both sides have one distribution (Goodfellow et al. 2014, theorem 1)."""
    same = torch.from_numpy(REAL)
    best = minimum = float(discrimination(torch.zeros(7, 1), torch.zeros(7, 1)))
    assert minimum == pytest.approx(2 * math.log(2))
    assert float(discrimination(same, same)) > best


def test_both_forms_push_the_fakes_the_same_way() -> None:
    scores = torch.from_numpy(FAKE).requires_grad_(True)
    gradients = [
        torch.autograd.grad(deception(scores, form), scores)[0] for form in ("non-saturating", "minimax")
    ]
    assert all(bool((gradient < 0).all()) for gradient in gradients)


def test_sure_discriminators_give_finite_values_and_gradients() -> None:
    scores = torch.tensor([[-200.0], [200.0]], requires_grad=True)
    loss = discrimination(scores, scores) + deception(scores) + deception(scores, "minimax")
    (gradient,) = torch.autograd.grad(loss, scores)
    assert bool(loss.isfinite()) and bool(gradient.isfinite().all())


@pytest.mark.parametrize("form", ["non-saturating", "minimax"])
def test_gradients_pass_finite_differences(form: Deception) -> None:
    real, fake = (torch.from_numpy(scores).requires_grad_(True) for scores in (REAL, FAKE))
    assert torch.autograd.gradcheck(discrimination, (real, fake))
    assert torch.autograd.gradcheck(lambda scores: deception(scores, form), (fake,))
