"""Relational distillation against a NumPy derivation of Park et al. 2019, section 3.2."""

from __future__ import annotations

import numpy as np
import pytest

from edgekd.core.errors import UsageError
from tests.distill.methods.features import Array, Scene

RNG = np.random.default_rng(12)
STUDENT, TEACHER = {"embedding": RNG.normal(size=(6, 3))}, {"embedding": RNG.normal(size=(6, 5))}
LABELS = [0, 1] * 3


def huber(error: float) -> float:
    return 0.5 * error**2 if abs(error) <= 1 else abs(error) - 0.5


def scaled_distances(rows: Array) -> Array:
    distances = np.array([[np.linalg.norm(v - w) for w in rows] for v in rows])
    return np.asarray(distances / np.mean([distances[i, j] for i in range(6) for j in range(6) if i != j]))


def angle(rows: Array, i: int, j: int, k: int) -> float:
    one, other = rows[j] - rows[i], rows[k] - rows[i]
    norms = np.linalg.norm(one) * np.linalg.norm(other)
    return float(one @ other / norms) if norms > 0 else 0.0


def test_distance_loss_is_the_mean_huber_error_of_scaled_distances_with_weight_25() -> None:
    psi_s, psi_t = scaled_distances(STUDENT["embedding"]), scaled_distances(TEACHER["embedding"])
    expected = np.mean([huber(error) for error in (psi_s - psi_t).ravel()])
    scene = Scene("rkd-d", STUDENT, TEACHER)
    assert scene.loss()["rkd-d"] == pytest.approx(expected, rel=1e-12)
    assert scene.weights() == {"task": 1.0, "rkd-d": 25.0}


def test_angle_loss_is_the_mean_huber_error_of_the_cosines_with_weight_50() -> None:
    triplets = [(i, j, k) for i in range(6) for j in range(6) for k in range(6)]
    errors = [angle(STUDENT["embedding"], *at) - angle(TEACHER["embedding"], *at) for at in triplets]
    scene = Scene("rkd-a", STUDENT, TEACHER)
    assert scene.loss()["rkd-a"] == pytest.approx(np.mean([huber(e) for e in errors]), rel=1e-12)
    assert scene.weights() == {"task": 1.0, "rkd-a": 50.0}


def test_both_stand_side_by_side_as_in_the_paper() -> None:
    both = Scene(["rkd-d", "rkd-a"], STUDENT, TEACHER).loss()
    assert both == Scene("rkd-d", STUDENT, TEACHER).loss() | Scene("rkd-a", STUDENT, TEACHER).loss()


@pytest.mark.parametrize(("name", "least"), [("rkd-d", 2), ("rkd-a", 3)])
def test_too_small_a_batch_is_refused_with_the_need(name: str, least: int) -> None:
    scene = Scene(name, STUDENT, TEACHER)
    with pytest.raises(UsageError, match=rf"needs {least} and got {least - 1}\n.*batch size of {least}"):
        scene.loss(range(least - 1))
    assert scene.loss(range(least))[name] > 0 or name == "rkd-d"


@pytest.mark.parametrize("name", ["rkd-d", "rkd-a"])
def test_a_network_without_embedding_is_refused_with_the_choices(name: str) -> None:
    maps = {"stage1": RNG.normal(size=(6, 2, 3, 3))}
    with pytest.raises(UsageError, match=r"no tap `embedding`\n.*choices: stage1"):
        Scene(name, STUDENT, maps)
    assert Scene({"name": name, "taps": {"embedding": "stage1"}}, STUDENT, maps).loss()[name] > 0
