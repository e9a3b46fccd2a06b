"""Conditional teacher-student learning against a NumPy derivation."""

from __future__ import annotations

import numpy as np
import pytest

from tests.distill.methods.answers import Array, Scene, cross_entropy, softmax

RNG = np.random.default_rng(3)
STUDENT, TEACHER = RNG.normal(size=(2, 20, 5)) * 2
LABELS = np.where(np.arange(20) < 12, TEACHER.argmax(axis=1), (TEACHER.argmax(axis=1) + 1) % 5)
"""The teacher is right on the first twelve."""


def soft_cross_entropy(target: Array, student: Array) -> Array:
    return np.asarray(-(target * np.log(softmax(student))).sum(axis=1))


def test_loss_follows_the_teacher_where_it_is_right_and_the_label_elsewhere() -> None:
    right, wrong = slice(0, 12), slice(12, 20)
    taught = soft_cross_entropy(softmax(TEACHER[right]), STUDENT[right])
    labeled = soft_cross_entropy(np.eye(5)[LABELS[wrong]], STUDENT[wrong])
    expected = np.concatenate([taught, labeled]).mean()
    loss = Scene("conditional-ts", STUDENT, TEACHER, labels=LABELS).loss()
    assert loss.total == pytest.approx(expected, rel=1e-12), "no other cross-entropy stands beside it"


def test_a_teacher_that_is_always_wrong_leaves_cross_entropy_with_the_labels() -> None:
    never = (TEACHER.argmax(axis=1) + 1) % 5
    loss = Scene("conditional-ts", STUDENT, TEACHER, labels=never).loss()
    assert loss.total == pytest.approx(cross_entropy(STUDENT, never), rel=1e-12)


def test_a_teacher_that_is_always_right_leaves_pure_distillation() -> None:
    """Same gradient as kd at T = 1 without labels."""
    always = TEACHER.argmax(axis=1)
    loss = Scene("conditional-ts", STUDENT, TEACHER, labels=always).loss()
    expected = (softmax(STUDENT) - softmax(TEACHER)) / len(STUDENT)
    np.testing.assert_allclose(loss.gradient, expected, atol=1e-15)


def test_the_task_weight_stays_zero_beside_other_methods() -> None:
    scene = Scene(["conditional-ts", "dkd"], STUDENT, TEACHER, labels=LABELS)
    weights = {term.name: term.weight for term in scene.program.terms}
    assert weights["task"] == 0.0 and weights["conditional-ts"] == 1.0
