"""Route constrained optimization: what the anchors hold, and in which order the student follows them."""

from __future__ import annotations

import pytest

from edgekd.core.errors import UsageError
from edgekd.distill.method import Roster
from edgekd.distill.methods.chain.rco import METHOD, ROUTE, Settings
from edgekd.distill.program import Program
from tests.distill.building import differ, engine_for, train, weights
from tests.distill.methods.watching import (
    TAPS,
    TAUGHT,
    assert_resumes,
    cross_entropy,
    labels,
    logits,
    softened_kl,
)


def program(**settings: float) -> Program:
    built = METHOD.build(Settings.model_validate(settings), TAUGHT)
    assert isinstance(built, Program)
    return built


def test_anchors_hold_the_route_at_equal_intervals() -> None:
    """Of 8 steps the first that is done at 1/4, 2/4 and 3/4 of the phase or later: 2, 4 and 6."""
    engine = engine_for(program(anchors=3, route_share=0.5))
    route = []
    for step in range(8):
        train(engine, 16, steps=[step])
        route.append(weights(engine, ROUTE))
    for anchor, step in (("anchor1", 2), ("anchor2", 4), ("anchor3", 6)):
        assert differ(weights(engine, anchor), route[step]) == set()
        assert differ(weights(engine, anchor), route[step + 1]), "the route went on"


def test_the_student_follows_the_anchors_in_order_and_then_the_teacher() -> None:
    """0.1 CE + 0.9 T^2 KL, T = 4, from each."""
    engine = engine_for(program(anchors=2, route_share=0.25))
    train(engine, 16, steps=range(4))
    for step, teacher in ((4, "anchor1"), (8, "anchor2"), (12, "teacher")):
        student = logits(engine, "student", step, learns=True)
        soft = softened_kl(logits(engine, teacher, step), student, 4.0)
        values = train(engine, 16, steps=range(step, step + 4))[0]
        assert values[f"rco:{teacher}"] == pytest.approx(soft, rel=1e-3)
        assert values["total"] == pytest.approx(
            0.1 * cross_entropy(student, labels(step)) + 0.9 * soft, rel=1e-3
        )


def test_the_route_is_a_training_of_its_own_of_the_teachers_architecture() -> None:
    engine = engine_for(program())
    teacher = weights(engine, "teacher")
    assert {key: value.shape for key, value in weights(engine, ROUTE).items()} == {
        key: value.shape for key, value in teacher.items()
    }
    assert differ(weights(engine, ROUTE), teacher)
    expected = cross_entropy(logits(engine, ROUTE, 0, learns=True), labels(0))
    (values,) = train(engine, 16, steps=[0])
    assert values["total"] == pytest.approx(expected, rel=1e-5)
    assert differ(weights(engine, "teacher"), teacher) == set()


def test_the_student_goes_on_from_anchor_to_anchor() -> None:
    """Its first step at an anchor starts from the weights of its last step at the one before."""
    engine = engine_for(program(anchors=1, route_share=0.5))
    start = weights(engine, "student")
    train(engine, 8, steps=range(4))
    assert differ(start, weights(engine, "student")) == set(), "it waits for the route"
    train(engine, 8, steps=range(4, 6))
    before = logits(engine, "student", 6, learns=True)
    (values,) = train(engine, 8, steps=[6])
    assert values["rco:teacher"] == pytest.approx(
        softened_kl(logits(engine, "teacher", 6), before, 4.0), rel=1e-3
    )


def test_route_and_anchors_rest_while_the_student_learns() -> None:
    engine = engine_for(program(anchors=2, route_share=0.25))
    train(engine, 16, steps=range(4))
    rest = (ROUTE, "anchor1", "anchor2", "teacher")
    before = {name: weights(engine, name) for name in rest}
    train(engine, 16, steps=range(4, 16))
    assert all(differ(before[name], weights(engine, name)) == set() for name in rest)
    assert differ(weights(engine, "student"), engine.deployed().state_dict()) == set()


def test_several_teachers_are_refused() -> None:
    with pytest.raises(UsageError, match="takes one teacher"):
        METHOD.build(Settings(), Roster(("teacher1", "teacher2"), TAPS))


def test_it_resumes_between_the_anchors_and_in_every_phase() -> None:
    built = program(anchors=2, route_share=0.25)
    assert_resumes(lambda: engine_for(built), 16, at=(2, 3, 5, 9, 13))
