"""Teacher assistants: who learns from whom, against NumPy, and which networks they are."""

from __future__ import annotations

import itertools

import pytest
from pydantic import ValidationError

from edgekd.core.errors import UsageError
from edgekd.distill.methods.chain.takd import METHOD, Settings
from edgekd.distill.program import Program
from edgekd.distill.validate import validate
from edgekd.networks.resnet_cifar import ResNetCifar
from edgekd.testing.tiny_networks import IMAGE_SHAPE, NUM_CLASSES, TinyNet, tiny_participant
from tests.distill.building import differ, engine_for, train, weights
from tests.distill.methods.watching import (
    ALONE,
    TAUGHT,
    assert_resumes,
    cross_entropy,
    labels,
    logits,
    softened_kl,
)

RESNET = {"network": "resnet_cifar", "args": {"depth": 8, "base_channels": 4}}
SMALLER = {"network": "resnet_cifar", "args": {"depth": 8, "base_channels": 4, "width": 0.5}}


def program(**settings: object) -> Program:
    built = METHOD.build(Settings.model_validate(settings), TAUGHT)
    assert isinstance(built, Program)
    return built


def test_every_network_learns_from_the_one_before_it() -> None:
    """0.1 CE + 0.9 T^2 KL, T = 4: teacher -> assistant1 -> assistant2 -> student."""
    engine = engine_for(program(assistants=[RESNET, SMALLER]))
    chain = ("teacher", "assistant1", "assistant2", "student")
    for number, (before, pupil) in enumerate(itertools.pairwise(chain)):
        step = 2 * number
        student = logits(engine, pupil, step, learns=True)
        soft = softened_kl(logits(engine, before, step), student, 4.0)
        values = train(engine, 6, steps=[step, step + 1])[0]
        assert values[f"takd:{pupil}"] == pytest.approx(soft, rel=1e-3)
        assert values["total"] == pytest.approx(
            0.1 * cross_entropy(student, labels(step)) + 0.9 * soft, rel=1e-3
        )


def test_a_network_rests_before_and_after_its_phase() -> None:
    engine = engine_for(program())
    names = ("teacher", "assistant1", "student")
    for number, pupil in enumerate(("assistant1", "student")):
        before = {name: weights(engine, name) for name in names}
        train(engine, 4, steps=[2 * number, 2 * number + 1])
        assert {name for name in names if differ(before[name], weights(engine, name))} == {pupil}
    assert differ(weights(engine, "student"), engine.deployed().state_dict()) == set()


def test_an_assistant_is_a_network_of_the_catalogue_with_the_students_classes() -> None:
    engine = engine_for(program(assistants=[RESNET, SMALLER]))
    first, second = (engine.roles[name].module for name in ("assistant1", "assistant2"))
    assert isinstance(first, ResNetCifar) and isinstance(second, ResNetCifar)
    assert first.linear.out_features == second.linear.out_features == NUM_CLASSES
    assert first.linear.in_features == 2 * second.linear.in_features


def test_without_a_named_assistant_it_has_the_students_architecture_and_other_weights() -> None:
    engine = engine_for(program())
    assistant = engine.roles["assistant1"].module
    assert isinstance(assistant, TinyNet) and assistant.width == engine.roles["student"].module.width
    assert differ(weights(engine, "assistant1"), weights(engine, "student"))


def test_assistants_and_student_get_equal_parts_of_the_training() -> None:
    values = train(engine_for(program(assistants=[RESNET, SMALLER])), 6)
    pupils = [next(name for name in step if name.startswith("takd:")) for step in values]
    assert pupils == ["takd:assistant1"] * 2 + ["takd:assistant2"] * 2 + ["takd:student"] * 2


def test_an_unknown_assistant_is_refused_before_training() -> None:
    given = {"student": tiny_participant(), "teacher": tiny_participant(8)}
    with pytest.raises(UsageError, match="resnet_cifar"):
        validate(program(assistants=[{"network": "resnet_cifra"}]), given, IMAGE_SHAPE)


def test_an_empty_list_of_assistants_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least 1"):
        program(assistants=[])


def test_a_teacher_is_needed() -> None:
    with pytest.raises(UsageError, match="needs a teacher"):
        METHOD.build(Settings(), ALONE)


def test_it_resumes_in_every_phase() -> None:
    assert_resumes(lambda: engine_for(program(assistants=[RESNET, SMALLER])), 6, at=(1, 3, 5))
