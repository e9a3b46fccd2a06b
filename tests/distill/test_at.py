"""Attention transfer against a NumPy derivation of the paper and of the authors' code."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from edgekd.core.errors import UsageError
from edgekd.distill.methods.feature.at import attention, attention_distance

RNG = np.random.default_rng(1)
STUDENT, TEACHER = RNG.normal(size=(5, 4, 6, 6)), RNG.normal(size=(5, 9, 6, 6))


def maps(features: npt.NDArray[np.float64], power: float) -> npt.NDArray[np.float64]:
    summed = (np.abs(features) ** power).sum(axis=1).reshape(len(features), -1)
    return np.asarray(summed / np.sqrt((summed**2).sum(axis=1, keepdims=True)))


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
def test_attention_is_the_normalized_sum_of_powers(power: float) -> None:
    actual = attention(torch.from_numpy(TEACHER), power).numpy()
    np.testing.assert_allclose(actual, maps(TEACHER, power), atol=1e-12)


def test_code_form_is_the_mean_of_squared_differences() -> None:
    expected = ((maps(STUDENT, 2) - maps(TEACHER, 2)) ** 2).mean()
    actual = attention_distance(torch.from_numpy(STUDENT), torch.from_numpy(TEACHER), 2.0, "code")
    assert float(actual) == pytest.approx(expected, rel=1e-12)


def test_paper_form_is_half_the_norm_over_the_positions() -> None:
    """Equation 2 with beta = 1000 / (positions x batch) split into weight 1000 and the rest."""
    norms = np.sqrt(((maps(STUDENT, 2) - maps(TEACHER, 2)) ** 2).sum(axis=1))
    expected = norms.sum() / 2 / (36 * len(norms))
    actual = attention_distance(torch.from_numpy(STUDENT), torch.from_numpy(TEACHER), 2.0, "paper")
    assert float(actual) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("form", ["code", "paper"])
def test_distance_ignores_the_scale_and_the_order_of_channels(form: str) -> None:
    features = torch.from_numpy(TEACHER)
    other = 3 * features[:, torch.randperm(9, generator=torch.Generator().manual_seed(0))]
    assert float(attention_distance(features, other, 2.0, form)) == pytest.approx(0.0, abs=1e-9)  # type: ignore[arg-type]


def test_larger_map_is_average_pooled() -> None:
    large = torch.from_numpy(TEACHER).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    student = torch.from_numpy(STUDENT)
    expected = attention_distance(student, torch.from_numpy(TEACHER), 2.0, "code")
    torch.testing.assert_close(attention_distance(student, large, 2.0, "code"), expected)


def test_vectors_are_refused() -> None:
    with pytest.raises(UsageError, match="not vectors"):
        attention_distance(torch.zeros(2, 3), torch.zeros(2, 3, 4, 4), 2.0, "code")


@pytest.mark.parametrize("form", ["code", "paper"])
def test_gradient_is_finite_at_match_and_for_dead_maps(form: str) -> None:
    """Where the norm of the difference, or of a map, is zero."""
    teacher = torch.from_numpy(TEACHER)
    for student in (teacher.clone(), torch.zeros_like(teacher)):
        student.requires_grad_(True)
        attention_distance(student, teacher, 2.0, form).backward()  # type: ignore[arg-type,no-untyped-call]
        assert student.grad is not None and bool(student.grad.isfinite().all())


@pytest.mark.parametrize("form", ["code", "paper"])
def test_gradient_passes_finite_differences(form: str) -> None:
    student = torch.from_numpy(STUDENT[:2, :, :3, :3]).requires_grad_(True)
    teacher = torch.from_numpy(TEACHER[:2, :, :3, :3])
    assert torch.autograd.gradcheck(lambda s: attention_distance(s, teacher, 2.0, form), (student,))  # type: ignore[arg-type]
