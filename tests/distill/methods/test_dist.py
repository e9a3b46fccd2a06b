"""DIST against a NumPy derivation of equations 6 to 10."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgekd.distill.kernels.respond import correlation_distance
from tests.distill.methods.answers import Array, Scene, cross_entropy, softmax

RNG = np.random.default_rng(7)
STUDENT, TEACHER = RNG.normal(size=(2, 14, 5)) * 2
LABELS = RNG.integers(5, size=14)


def pearson(u: Array, v: Array) -> float:
    """cov(u, v) / (std u std v)."""
    covariance = (u * v).mean() - u.mean() * v.mean()
    return float(covariance / np.sqrt(((u**2).mean() - u.mean() ** 2) * ((v**2).mean() - v.mean() ** 2)))


def relations(temperature: float) -> tuple[float, float]:
    """1 - mean correlation of the rows, and of the columns."""
    p, q = softmax(TEACHER, temperature), softmax(STUDENT, temperature)
    rows = [pearson(q[b], p[b]) for b in range(14)]
    columns = [pearson(q[:, c], p[:, c]) for c in range(5)]
    return 1 - float(np.mean(rows)), 1 - float(np.mean(columns))


def test_default_loss_is_the_authors_for_imagenet() -> None:
    """Cross-entropy plus twice the sum of both relations at T = 1."""
    inter, intra = relations(1)
    expected = cross_entropy(STUDENT, LABELS) + 2 * (inter + intra)
    loss = Scene("dist", STUDENT, TEACHER, labels=LABELS).loss()
    assert loss.total == pytest.approx(expected, rel=1e-10)


def test_cifar_settings_multiply_by_the_squared_temperature() -> None:
    inter, intra = relations(4)
    expected = cross_entropy(STUDENT, LABELS) + 2 * 16 * (inter + intra)
    loss = Scene({"name": "dist", "temperature": 4.0}, STUDENT, TEACHER, labels=LABELS).loss()
    assert loss.total == pytest.approx(expected, rel=1e-10)


def test_beta_weighs_the_classes_and_gamma_the_samples() -> None:
    inter, intra = relations(1)
    method = {"name": "dist", "beta": 3.0, "gamma": 0.5, "weight": 1.0}
    loss = Scene(method, STUDENT, TEACHER, labels=LABELS).loss()
    expected = cross_entropy(STUDENT, LABELS) + 3 * inter + 0.5 * intra
    assert loss.total == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("dim", [0, 1])
def test_distance_ignores_scale_and_shift_and_is_zero_at_match_and_two_at_opposites(dim: int) -> None:
    target = torch.from_numpy(TEACHER)
    assert float(correlation_distance(3 * target + 5, target, dim)) == pytest.approx(0.0, abs=1e-12)
    assert float(correlation_distance(-target, target, dim)) == pytest.approx(2.0, abs=1e-12)


def test_within_a_class_only_compares_samples_and_between_classes_does_not() -> None:
    scene = Scene("dist", STUDENT, TEACHER, labels=LABELS)
    needs = {term.name: term.needs.whole_batch for term in scene.program.terms}
    assert needs["dist-intra"] and not needs["dist-inter"]
    halves = [scene.loss(range(0, 7)).terms, scene.loss(range(7, 14)).terms]
    whole = scene.loss().terms
    assert (halves[0]["dist-inter"] + halves[1]["dist-inter"]) / 2 == pytest.approx(whole["dist-inter"])
    assert (halves[0]["dist-intra"] + halves[1]["dist-intra"]) / 2 != pytest.approx(
        whole["dist-intra"], rel=1e-3
    )


@pytest.mark.parametrize("dim", [0, 1])
def test_constant_answers_have_correlation_zero_and_a_finite_gradient(dim: int) -> None:
    student = torch.full((4, 3), 1 / 3, dtype=torch.float64, requires_grad=True)
    value = correlation_distance(student, torch.from_numpy(softmax(TEACHER[:4, :3])), dim)
    value.backward()  # type: ignore[no-untyped-call]
    assert float(value.detach()) == pytest.approx(1.0)
    assert student.grad is not None and torch.isfinite(student.grad).all()


@pytest.mark.parametrize("dim", [0, 1])
def test_gradient_passes_finite_differences(dim: int) -> None:
    student = torch.from_numpy(STUDENT[:4, :3]).clone().requires_grad_(True)
    target = torch.from_numpy(softmax(TEACHER[:4, :3]))
    assert torch.autograd.gradcheck(lambda z: correlation_distance(z.softmax(1), target, dim), (student,))
