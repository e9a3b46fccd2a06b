"""The virtual teacher against NumPy derivations of the authors' code and of the paper's equation."""

from __future__ import annotations

import numpy as np
import pytest

from tests.distill.methods.answers import Array, Scene, cross_entropy, softmax

NUM_CLASSES = 6
RNG = np.random.default_rng(4)
STUDENT = RNG.normal(size=(10, NUM_CLASSES)) * 2
LABELS = RNG.integers(NUM_CLASSES, size=10)


def virtual_teacher(correct: float, temperature: float) -> Array:
    designed = np.full((10, NUM_CLASSES), (1 - correct) / (NUM_CLASSES - 1))
    designed[np.arange(10), LABELS] = correct
    return softmax(designed, temperature)


def kl(target: Array, student: Array) -> Array:
    return np.asarray(target * np.log(target / student))


def test_default_loss_is_the_authors_code_with_its_multiplier_taken_in() -> None:
    """(1 - 0.1) CE + 0.1 m mean_{b,c} u log(u / p), m the number of classes, the student at T = 1."""
    pointwise = kl(virtual_teacher(0.99, 20), softmax(STUDENT))
    expected = 0.9 * cross_entropy(STUDENT, LABELS) + 0.1 * NUM_CLASSES * pointwise.mean()
    loss = Scene("tf-kd-reg", STUDENT, labels=LABELS).loss()
    assert loss.total == pytest.approx(expected, rel=1e-12)


def test_paper_form_softens_the_student_too() -> None:
    method = {"name": "tf-kd-reg", "form": "paper", "temperature": 5.0, "correct": 0.9}
    expected = 25 * kl(virtual_teacher(0.9, 5), softmax(STUDENT, 5)).sum(axis=1).mean()
    loss = Scene(method, STUDENT, labels=LABELS).loss()
    assert loss.terms["tf-kd-reg"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("form", ["code", "paper"])
def test_a_student_that_answers_like_the_virtual_teacher_has_no_loss(form: str) -> None:
    designed = np.full((10, NUM_CLASSES), 0.01 / (NUM_CLASSES - 1))
    designed[np.arange(10), LABELS] = 0.99
    student = designed / 20 if form == "code" else designed
    loss = Scene({"name": "tf-kd-reg", "form": form}, student, labels=LABELS).loss()
    assert loss.terms["tf-kd-reg"] == pytest.approx(0.0, abs=1e-12)


def test_the_target_is_almost_uniform_and_so_a_penalty_on_confidence() -> None:
    """At T = 20 the term is within 2 % of KL(uniform || p_s)."""
    uniform = np.full_like(STUDENT, 1 / NUM_CLASSES)
    limit = kl(uniform, softmax(STUDENT)).sum(axis=1).mean()
    term = Scene("tf-kd-reg", STUDENT, labels=LABELS).loss().terms["tf-kd-reg"]
    assert term != pytest.approx(limit, rel=1e-6) and term == pytest.approx(limit, rel=0.02)


def test_low_temperature_lets_the_label_stand_out() -> None:
    scene = Scene({"name": "tf-kd-reg", "temperature": 0.01, "weight": 1.0}, STUDENT, labels=LABELS)
    assert scene.loss().terms["tf-kd-reg"] == pytest.approx(cross_entropy(STUDENT, LABELS), rel=1e-9)
