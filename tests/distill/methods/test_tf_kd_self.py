"""Tf-KD by self-training against the authors' loss in NumPy, and who learns when."""

from __future__ import annotations

import pytest

from edgekd.distill.methods.chain.tf_kd_self import COPY, METHOD, Settings
from edgekd.distill.program import Program
from tests.distill.building import differ, engine_for, train, weights
from tests.distill.methods.watching import (
    ALONE,
    assert_resumes,
    cross_entropy,
    kl,
    labels,
    logits,
    softmax,
    weighing_labels,
)


def program(**settings: float) -> Program:
    built = METHOD.build(Settings.model_validate(settings), ALONE)
    assert isinstance(built, Program)
    return built


def test_the_second_phase_minimizes_the_authors_loss_in_our_reduction() -> None:
    """(1 - a) CE + a m T^2 mean over batch AND classes of the KL's summands, a = 0.95, m = 50, T = 6."""
    alpha, multiplier, temperature, num_classes = 0.95, 50.0, 6.0, 4
    engine = engine_for(program(weight=alpha * multiplier / num_classes, temperature=temperature))
    train(engine, 20, steps=range(10))
    student, copy = logits(engine, "student", 10, learns=True), logits(engine, COPY, 10)
    divided = kl(softmax(copy, temperature), softmax(student, temperature)).sum() / copy.size
    soft = alpha * divided * temperature**2 * multiplier
    expected = (1 - alpha) * cross_entropy(student, labels(10)) + soft
    (values,) = train(engine, 20, steps=[10])
    assert values["total"] == pytest.approx(expected, rel=1e-4)


def test_the_copy_learns_from_labels_alone_and_the_student_waits() -> None:
    engine = engine_for(program())
    student, copy = weights(engine, "student"), weights(engine, COPY)
    assert differ(student, copy), "the copy starts from weights of its own"
    expected = cross_entropy(logits(engine, COPY, 0, learns=True), labels(0))
    values = train(engine, 20, steps=range(10))
    assert values[0]["total"] == pytest.approx(expected, rel=1e-5)
    assert differ(copy, weights(engine, COPY))
    assert differ(student, weights(engine, "student")) == set()


def test_the_copy_rests_while_it_teaches_and_the_student_is_deployed() -> None:
    engine = engine_for(program())
    train(engine, 20, steps=range(10))
    copy = weights(engine, COPY)
    train(engine, 20, steps=range(10, 20))
    assert differ(copy, weights(engine, COPY)) == set()
    assert differ(weights(engine, "student"), engine.deployed().state_dict()) == set()


def test_the_copy_gets_its_share_of_the_training() -> None:
    values = train(engine_for(program(copy_share=0.25)), 20)
    assert [f"task:{COPY}" in step for step in values] == [True] * 5 + [False] * 15


def test_a_recipes_task_weight_counts_beside_the_copy_only() -> None:
    built = METHOD.build(Settings(), weighing_labels(ALONE, 0.3))
    assert isinstance(built, Program)
    assert {term.name: term.weight for term in built.terms} == {
        f"task:{COPY}": 1.0,
        "task:student": 0.3,
        "tf-kd-self": 0.475,
    }


def test_it_resumes_in_both_phases() -> None:
    assert_resumes(lambda: engine_for(program()), 6, at=(1, 3, 4))
