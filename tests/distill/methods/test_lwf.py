"""Learning without forgetting against a NumPy derivation; how classes are matched."""

from __future__ import annotations

import numpy as np
import pytest

from edgekd.core.errors import UsageError
from edgekd.distill.compose import build_program
from edgekd.distill.launch import given_roles
from edgekd.distill.participant import Participant
from edgekd.distill.settings import DistillSettings
from edgekd.distill.validate import validate
from tests.distill.methods.answers import IMAGE_SHAPE, Scene, Table, cross_entropy, softmax

RNG = np.random.default_rng(9)
STUDENT = RNG.normal(size=(10, 5)) * 2
TEACHER = RNG.normal(size=(10, 3)) * 2
LABELS = RNG.integers(5, size=10)
ALL, OLD = ("bird", "cat", "deer", "dog", "frog"), ("dog", "bird", "cat")
NAMES = {"student": ALL, "teacher": OLD}
COLUMNS = [3, 0, 1]


def scene(names: dict[str, tuple[str, ...]] | None = None, **settings: float) -> Scene:
    return Scene({"name": "lwf", **settings}, STUDENT, TEACHER, labels=LABELS, class_names=names)


def test_loss_is_the_papers_cross_entropy_at_two_less_the_targets_entropy() -> None:
    """lambda = 1, no T^2, softmax over the old classes alone."""
    target, student = softmax(TEACHER, 2), softmax(STUDENT[:, COLUMNS], 2)
    paper = -(target * np.log(student)).sum(axis=1).mean()
    entropy = -(target * np.log(target)).sum(axis=1).mean()
    expected = cross_entropy(STUDENT, LABELS) + paper - entropy
    assert scene(NAMES).loss().total == pytest.approx(expected, rel=1e-12)


def test_term_carries_the_squared_temperature() -> None:
    target, student = softmax(TEACHER, 3), softmax(STUDENT[:, COLUMNS], 3)
    expected = 9 * (target * np.log(target / student)).sum(axis=1).mean()
    loss = scene(NAMES, temperature=3.0).loss()
    assert loss.terms["lwf"] == pytest.approx(expected, rel=1e-12)


def test_new_classes_get_no_gradient_from_the_old_model() -> None:
    labels_alone = Scene("none", STUDENT, labels=LABELS).loss().gradient
    distilled = scene(NAMES).loss().gradient - labels_alone
    assert np.array_equal(distilled[:, [2, 4]], np.zeros((10, 2)))
    assert (np.abs(distilled[:, COLUMNS]) > 1e-6).all()


def test_unknown_names_are_matched_by_position() -> None:
    by_name = scene({"student": ALL, "teacher": ("bird", "cat", "deer")}).loss()
    assert scene().loss().total == by_name.total
    assert scene({"student": ALL}).loss().total == by_name.total


def test_equal_classes_are_kd_at_two() -> None:
    teacher = RNG.normal(size=(10, 5))
    lwf = Scene("lwf", STUDENT, teacher, labels=LABELS).loss()
    kd = Scene({"name": "kd", "temperature": 2.0}, STUDENT, teacher, labels=LABELS).loss()
    assert lwf.terms["lwf"] == pytest.approx(kd.terms["kd"], rel=1e-12)


def test_a_class_that_the_student_lacks_is_named() -> None:
    with pytest.raises(UsageError, match=r"(?s)method `lwf`.*`horse`.*bird, cat, deer, dog, frog"):
        scene({"student": ALL, "teacher": ("dog", "horse", "cat")})


def test_other_classes_pass_validation_and_too_many_do_not() -> None:
    def check(num_old: int) -> None:
        program = build_program(DistillSettings(method="lwf"), num_teachers=1)
        student, teacher = Participant(Table(STUDENT), labels=ALL), Participant(Table(np.ones((3, num_old))))
        validate(program, given_roles(student, [teacher]), IMAGE_SHAPE)

    check(3)
    with pytest.raises(UsageError, match="the teacher has 6 classes, the student 5"):
        check(6)
