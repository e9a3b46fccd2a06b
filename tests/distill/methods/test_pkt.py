"""Probabilistic knowledge transfer against NumPy derivations of the paper and of the authors' code."""

from __future__ import annotations

import numpy as np
import pytest

from edgekd.core.errors import UsageError
from tests.distill.methods.features import Array, Scene

RNG = np.random.default_rng(14)
STUDENT, TEACHER = {"embedding": RNG.normal(size=(6, 3))}, {"embedding": RNG.normal(size=(6, 5))}


def similarity(rows: Array, i: int, j: int) -> float:
    cosine = rows[i] @ rows[j] / (np.linalg.norm(rows[i]) * np.linalg.norm(rows[j]))
    return float((cosine + 1) / 2)


def probability(rows: Array, i: int, j: int, others: list[int]) -> float:
    return similarity(rows, i, j) / sum(similarity(rows, i, k) for k in others)


def divergence(i: int, others: list[int]) -> float:
    """KL of the teacher's conditional probabilities to the student's at sample i."""
    pairs = [
        (probability(TEACHER["embedding"], i, j, others), probability(STUDENT["embedding"], i, j, others))
        for j in others
    ]
    return float(sum(p * np.log(p / q) for p, q in pairs))


def test_loss_is_the_mean_divergence_over_the_other_samples() -> None:
    expected = np.mean([divergence(i, [j for j in range(6) if j != i]) for i in range(6)])
    scene = Scene("pkt", STUDENT, TEACHER)
    assert scene.loss()["pkt"] == pytest.approx(expected, rel=1e-12)
    assert scene.weights()["pkt"] == 470


def test_with_the_diagonal_it_is_b_times_the_mean_of_the_authors_code() -> None:
    rows = list(range(6))
    summed = sum(divergence(i, rows) for i in rows)
    scene = Scene({"name": "pkt", "diagonal": True}, STUDENT, TEACHER)
    assert scene.loss()["pkt"] == pytest.approx(6 * (summed / 36), rel=1e-12)


def test_weight_is_the_published_30000_at_a_batch_of_64() -> None:
    assert Scene("pkt", STUDENT, TEACHER).weights()["pkt"] == pytest.approx(30000 / 64, rel=0.01)


def test_two_samples_say_nothing_without_the_diagonal_and_are_refused() -> None:
    with pytest.raises(UsageError, match="needs 3 and got 2"):
        Scene("pkt", STUDENT, TEACHER).loss([0, 1])
    assert Scene({"name": "pkt", "diagonal": True}, STUDENT, TEACHER).loss([0, 1])["pkt"] > 0
