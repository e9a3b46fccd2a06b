"""Regression on standardized logits against a NumPy derivation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgekd.distill.methods.response.logit_regression import seen_deviation
from tests.distill.methods.answers import Array, Scene

RNG = np.random.default_rng(8)
STUDENT = RNG.normal(size=(30, 4))
TEACHER = RNG.normal(size=(30, 4)) * [0.5, 1.0, 3.0, 8.0] + [10.0, 0.0, -4.0, 1.0]
LABELS = RNG.integers(4, size=30)


def standardized(logits: Array, seen: Array) -> Array:
    return np.asarray((logits - seen.mean(axis=0)) / seen.std(axis=0))


def half_squared_error(a: Array, b: Array) -> float:
    return float(0.5 * ((a - b) ** 2).sum(axis=1).mean())


def test_loss_is_half_the_squared_error_of_logits_standardized_over_what_was_seen() -> None:
    scene = Scene("logit-regression", STUDENT, TEACHER, labels=LABELS)
    for begin, end in ((0, 10), (10, 14), (14, 30)):
        seen, batch = TEACHER[:end], slice(begin, end)
        expected = half_squared_error(standardized(STUDENT[batch], seen), standardized(TEACHER[batch], seen))
        loss = scene.loss(range(begin, end))
        assert loss.total == pytest.approx(expected, rel=1e-10), "no labels take part"


def test_without_standardizing_it_is_half_the_squared_error_of_the_raw_logits() -> None:
    method = {"name": "logit-regression", "standardize": False, "weight": 0.5}
    loss = Scene(method, STUDENT, TEACHER, labels=LABELS).loss()
    assert loss.total == pytest.approx(0.5 * half_squared_error(STUDENT, TEACHER), rel=1e-12)


def test_the_raw_student_answers_like_the_teacher_at_match() -> None:
    """A student that put out standardized logits would answer otherwise here."""
    assert Scene("logit-regression", TEACHER, TEACHER, labels=LABELS).loss().total == 0.0
    assert (standardized(TEACHER, TEACHER).argmax(axis=1) != TEACHER.argmax(axis=1)).mean() > 0.2


def test_a_scale_of_the_teachers_class_does_not_change_the_loss() -> None:
    losses = [
        Scene("logit-regression", STUDENT * scale, TEACHER * scale, labels=LABELS).loss().total
        for scale in (np.ones(4), np.array([0.1, 1.0, 5.0, 100.0]))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)


@pytest.mark.parametrize("sizes", [[30], [1, 1, 28], [7, 7, 7, 9], [1] * 30])
def test_moments_of_any_split_into_batches_are_those_of_the_whole(sizes: list[int]) -> None:
    memory: dict[str, torch.Tensor] = {}
    deviation = torch.zeros(0)
    for batch in torch.split(torch.from_numpy(TEACHER), sizes):
        deviation = seen_deviation(memory, batch)
    np.testing.assert_allclose(deviation.numpy(), TEACHER.std(axis=0), rtol=1e-12)
    np.testing.assert_allclose(memory["mean"].numpy(), TEACHER.mean(axis=0), rtol=1e-12)
    assert int(memory["count"]) == 30


def test_moments_stay_exact_far_from_zero_in_single_precision() -> None:
    """Sums of squares would have lost the deviation of 1 beside the mean of 10,000."""
    logits = torch.from_numpy(RNG.normal(size=(4000, 2)) + 1e4).float()
    memory: dict[str, torch.Tensor] = {}
    for batch in torch.split(logits, 100):
        deviation = seen_deviation(memory, batch)
    assert deviation.dtype == torch.float32
    np.testing.assert_allclose(deviation.numpy(), logits.double().numpy().std(axis=0), rtol=1e-6)


def test_constant_logits_are_compared_as_they_are() -> None:
    constant = np.full((30, 4), 2.0)
    loss = Scene("logit-regression", STUDENT, constant, labels=LABELS).loss()
    assert loss.total == pytest.approx(half_squared_error(STUDENT, constant), rel=1e-12)


def test_moments_are_taken_over_the_samples_of_all_processes() -> None:
    scene = Scene("logit-regression", STUDENT, TEACHER, labels=LABELS)
    (term,) = (term for term in scene.program.terms if term.name == "logit-regression")
    assert term.needs.whole_batch
