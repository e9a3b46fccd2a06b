"""Class-wise self-distillation against a NumPy derivation."""

from __future__ import annotations

import numpy as np
import pytest

from edgekd.data.sampling import SAME_CLASS
from tests.distill.methods.answers import Scene, cross_entropy, softmax

RNG = np.random.default_rng(5)
ANSWERS = RNG.normal(size=(12, 5)) * 2
LABELS = np.tile(RNG.integers(5, size=6), 2)
IMAGES, PARTNERS = range(6), range(6, 12)
"""Row n + 6 shows another image of the class of row n."""


def scene(**settings: float) -> Scene:
    return Scene({"name": "cs-kd", **settings}, ANSWERS, labels=LABELS)


def test_loss_is_cross_entropy_plus_the_divergence_from_the_partner_at_four() -> None:
    target, student = softmax(ANSWERS[6:], 4), softmax(ANSWERS[:6], 4)
    divergence = 16 * (target * np.log(target / student)).sum(axis=1).mean()
    loss = scene().loss(IMAGES, views={SAME_CLASS: PARTNERS})
    assert loss.total == pytest.approx(divergence + cross_entropy(ANSWERS[:6], LABELS[:6]), rel=1e-12)


def test_no_gradient_reaches_the_partner() -> None:
    gradient = scene().loss(IMAGES, views={SAME_CLASS: PARTNERS}).gradient
    assert np.abs(gradient[:6]).min(axis=1).max() > 0
    assert np.array_equal(gradient[6:], np.zeros((6, 5)))


def test_gradient_is_that_of_kd_with_the_partner_as_the_teacher() -> None:
    loss = scene(temperature=2.0, weight=3.0).loss(IMAGES, views={SAME_CLASS: PARTNERS})
    labels = np.eye(5)[LABELS[:6]]
    expected = (softmax(ANSWERS[:6]) - labels) / 6
    expected += 3 * 2 * (softmax(ANSWERS[:6], 2) - softmax(ANSWERS[6:], 2)) / 6
    np.testing.assert_allclose(loss.gradient[:6], expected, atol=1e-14)


def test_an_image_that_is_its_own_partner_adds_nothing() -> None:
    loss = scene().loss(IMAGES, views={SAME_CLASS: IMAGES})
    assert loss.terms["cs-kd"] == pytest.approx(0.0, abs=1e-12)


def test_it_needs_no_teacher_and_asks_for_the_view_of_the_same_class() -> None:
    assert scene().program.views == ("x", SAME_CLASS)
    assert set(scene().program.roles) == {"student"}
