"""Correlation congruence against a NumPy derivation of Peng et al. 2019, section 3."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.distill.methods.features import Array, Scene

RNG = np.random.default_rng(13)
STUDENT, TEACHER = {"embedding": RNG.normal(size=(6, 3))}, {"embedding": RNG.normal(size=(6, 5))}


def kernel(rows: Array, gamma: float, order: int) -> Array:
    unit = [v / np.linalg.norm(v) for v in rows]
    entries = [
        sum((2 * gamma) ** p / math.factorial(p) * float(v @ w) ** p for p in range(order + 1))
        for v in unit
        for w in unit
    ]
    return np.asarray(math.exp(-2 * gamma) * np.array(entries).reshape(len(rows), -1))


@pytest.mark.parametrize(("gamma", "order"), [(0.4, 2), (0.7, 3)])
def test_loss_is_the_squared_frobenius_distance_over_b_squared(gamma: float, order: int) -> None:
    matrices = [kernel(features["embedding"], gamma, order) for features in (STUDENT, TEACHER)]
    expected = ((matrices[0] - matrices[1]) ** 2).sum() / 36
    scene = Scene({"name": "cckd", "gamma": gamma, "order": order}, STUDENT, TEACHER)
    assert scene.loss()["cckd"] == pytest.approx(expected, rel=1e-12)


def test_defaults_are_gamma_two_fifths_and_order_two() -> None:
    explicit = Scene({"name": "cckd", "gamma": 0.4, "order": 2, "weight": 100}, STUDENT, TEACHER)
    scene = Scene("cckd", STUDENT, TEACHER)
    assert scene.loss() == explicit.loss() and scene.weights() == explicit.weights()


def test_it_asks_for_class_uniform_batches() -> None:
    assert Scene("cckd", STUDENT, TEACHER).program.sampler == "class_uniform"


def test_the_whole_loss_of_the_paper_is_kd_beside_it() -> None:
    scene = Scene(["kd", "cckd"], STUDENT, TEACHER)
    assert scene.weights() == {"task": 0.1, "kd": 0.9, "cckd": 100}
