"""Several teachers' averaged answers against a NumPy derivation."""

from __future__ import annotations

import numpy as np
import pytest

from edgekd.core.errors import UsageError
from edgekd.distill.compose import build_program
from edgekd.distill.settings import DistillSettings
from tests.distill.methods.answers import Array, Scene, cross_entropy, softmax

RNG = np.random.default_rng(2)
STUDENT, FIRST, SECOND, THIRD = RNG.normal(size=(4, 12, 5)) * 2
LABELS = RNG.integers(5, size=12)


def kl(target: Array, student: Array, temperature: float) -> float:
    per_sample = (target * np.log(target / softmax(student, temperature))).sum(axis=1)
    return float(temperature**2 * per_sample.mean())


def test_default_loss_is_the_papers_average_of_ten_models_experiment() -> None:
    """T = 2 against the arithmetic mean, and half as much weight on the labels."""
    target = (softmax(FIRST, 2) + softmax(SECOND, 2) + softmax(THIRD, 2)) / 3
    expected = kl(target, STUDENT, 2) + 0.5 * cross_entropy(STUDENT, LABELS)
    loss = Scene("avg-teachers", STUDENT, FIRST, SECOND, THIRD, labels=LABELS).loss()
    assert loss.total == pytest.approx(expected, rel=1e-12)


def test_geometric_mean_is_the_normalized_root_of_the_product() -> None:
    method = {"name": "avg-teachers", "mean": "geometric", "temperature": 3.0}
    root = np.sqrt(softmax(FIRST, 3) * softmax(SECOND, 3))
    expected = kl(root / root.sum(axis=1, keepdims=True), STUDENT, 3)
    loss = Scene(method, STUDENT, FIRST, SECOND, labels=LABELS).loss()
    assert loss.terms["avg-teachers"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_equal_teachers_teach_like_one_by_kd(mean: str) -> None:
    method = {"name": "avg-teachers", "mean": mean, "temperature": 4.0}
    several = Scene(method, STUDENT, FIRST, FIRST, labels=LABELS).loss()
    one = Scene("kd", STUDENT, FIRST, labels=LABELS).loss()
    assert several.terms["avg-teachers"] == pytest.approx(one.terms["kd"], rel=1e-12)


def test_gradient_of_the_arithmetic_mean_is_the_mean_of_the_teachers_gradients() -> None:
    def gradient(method: str, *teachers: Array) -> Array:
        uses = [{"name": method, "temperature": 2.0, "weight": 1.0}]
        scene = Scene(uses, STUDENT, *teachers, labels=LABELS)
        weight_of_labels = {"kd": 0.1, "avg-teachers": 0.5}[method]
        labels_alone = Scene("none", STUDENT, labels=LABELS).loss().gradient
        return scene.loss().gradient - weight_of_labels * labels_alone

    each = [gradient("kd", teacher) for teacher in (FIRST, SECOND)]
    np.testing.assert_allclose(gradient("avg-teachers", FIRST, SECOND), (each[0] + each[1]) / 2, atol=1e-14)


def test_the_order_of_the_teachers_does_not_matter() -> None:
    losses = [
        Scene("avg-teachers", STUDENT, *teachers, labels=LABELS).loss().total
        for teachers in ((FIRST, SECOND, THIRD), (THIRD, FIRST, SECOND))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_one_teacher_is_refused_with_the_way_out() -> None:
    with pytest.raises(UsageError, match=r"(?s)avg-teachers.*two teachers or more.*`kd`"):
        build_program(DistillSettings(method="avg-teachers"), num_teachers=1)
