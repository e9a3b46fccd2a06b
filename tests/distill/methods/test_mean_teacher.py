"""Mean teacher against NumPy: consistency, its ramp, the average, unlabeled images, what is deployed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from edgekd.distill.methods.peers.mean_teacher import inconsistency
from tests.distill.methods.answers import Array, softmax
from tests.distill.methods.cohort_tables import LEARNING_RATE, Tables, label_gradient

RNG = np.random.default_rng(8)
STUDENT, AVERAGE = RNG.normal(size=(9, 4)) * 2, RNG.normal(size=(9, 4)) * 2
LABELS = RNG.integers(4, size=9)
SECOND_VIEW = [4, 1, 8, 0, 3, 2, 7, 5, 6]
UNLABELED = {"x": [3, 3, 1], "x2": [0, 5, 6]}


def networks(**settings: Any) -> Tables:
    tables = {"student": STUDENT, "average": AVERAGE}
    method = {"name": "mean-teacher", **settings}
    return Tables(method, tables, LABELS, unlabeled=UNLABELED if settings.get("unlabeled") else None)


def squared(p: Array, q: Array) -> Array:
    return np.asarray(((p - q) ** 2).sum(axis=1))


def gradient_of_squared(logits: Array, q: Array) -> Array:
    """By the logits, per sample: 2 p_i (d_i - sum_j p_j d_j), d = p - q."""
    p = softmax(logits)
    d = p - q
    return np.asarray(2 * p * (d - (p * d).sum(axis=1, keepdims=True)))


def test_consistency_compares_two_views_of_the_same_images() -> None:
    pair = networks()
    assert pair.program.views == ("x", "x2")
    values = pair.step(views={"x2": SECOND_VIEW})
    expected = squared(softmax(STUDENT), softmax(AVERAGE)[SECOND_VIEW]).mean()
    assert values["mean-teacher"] == pytest.approx(expected, rel=1e-12)


def test_a_step_follows_labels_and_the_average_with_the_ramped_weight() -> None:
    pair = networks(weight=10.0, ramp_up=0.5, decay=0.999)
    pair.step(1, of=8, views={"x2": SECOND_VIEW})
    weight = 10 * math.exp(-5 * (1 - (1 / 8) / 0.5) ** 2)
    pull = weight * gradient_of_squared(STUDENT, softmax(AVERAGE)[SECOND_VIEW]) / 9
    student = STUDENT - LEARNING_RATE * (label_gradient(STUDENT, LABELS) + pull)
    np.testing.assert_allclose(pair.table("student"), student, atol=1e-12)
    decay = 2 / 11
    average = decay * AVERAGE + (1 - decay) * student
    np.testing.assert_allclose(pair.table("average"), average, atol=1e-12)


def test_the_weight_stays_after_the_ramp() -> None:
    (turn,) = networks(weight=7.0, ramp_up=0.25).program.turns
    weight = turn.terms[1].weight
    assert callable(weight)
    assert [weight(0.25), weight(0.9)] == [7.0, 7.0]
    assert weight(0.0) == pytest.approx(7 * math.exp(-5))


def test_unlabeled_images_join_the_mean_but_not_the_cross_entropy() -> None:
    pair = networks(unlabeled=True)
    assert pair.program.views == ("x", "x2")
    assert dict(pair.program.streams) == {"unlabeled": ("x", "x2")}
    values = pair.step(views={"x2": SECOND_VIEW})
    p, q = softmax(STUDENT), softmax(AVERAGE)
    labeled, unlabeled = squared(p, q[SECOND_VIEW]), squared(p[UNLABELED["x"]], q[UNLABELED["x2"]])
    expected = (labeled.sum() + unlabeled.sum()) / 12
    assert values["mean-teacher"] == pytest.approx(expected, rel=1e-12)
    assert values["task"] == pytest.approx(-np.log(p[np.arange(9), LABELS]).mean(), rel=1e-12)


def test_training_with_unlabeled_images_resumes_bit_for_bit() -> None:
    whole, first, second = (networks(unlabeled=True) for _ in range(3))
    expected = [whole.step(number, of=6) for number in range(6)]
    for number in range(4):
        first.step(number, of=6)
    second.engine.load_state(first.engine.state())
    assert [second.step(number, of=6) for number in (4, 5)] == expected[4:]
    np.testing.assert_array_equal(second.table("average"), whole.table("average"))


def test_the_average_is_deployed() -> None:
    pair = networks()
    pair.step()
    deployed = pair.engine.deployed().state_dict()["rows"].numpy()
    np.testing.assert_array_equal(deployed, pair.table("average"))
    assert not np.array_equal(deployed, pair.table("student"))


def test_the_term_is_the_codes_mean_over_classes_times_their_number() -> None:
    """CuriousAI: mse_loss(softmax, softmax, sum) / num_classes / batch."""
    code = ((softmax(STUDENT) - softmax(AVERAGE)) ** 2).sum() / 4 / 9
    actual = float(inconsistency(torch.from_numpy(STUDENT), torch.from_numpy(AVERAGE)))
    assert actual == pytest.approx(4 * code, rel=1e-12)
