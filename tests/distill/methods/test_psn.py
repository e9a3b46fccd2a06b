"""Portable student networks: values against NumPy, and who learns in whose turn."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgekd.core.errors import UsageError
from edgekd.distill.cast import Cast, assemble
from edgekd.distill.compose import build_program, compose
from edgekd.distill.context import Context, Live, OutputCache, Progress, TermContext
from edgekd.distill.engine import Engine
from edgekd.distill.launch import given_roles
from edgekd.distill.method import Part, Roster
from edgekd.distill.methods.adversarial.psn import (
    DISCRIMINATOR,
    METHOD,
    TRANSLATOR,
    Discriminator,
    Settings,
    pooled,
)
from edgekd.distill.program import Program
from edgekd.distill.settings import DistillSettings, MethodUse
from edgekd.testing.tiny_networks import IMAGE_SHAPE, tiny_batch, tiny_participant
from edgekd.testing.tiny_runs import trained_teacher
from edgekd.train.precision import Precision
from tests.distill.building import differ, engine_for, train, weights
from tests.distill.methods.answers import Array
from tests.distill.methods.watching import (
    TAPS,
    TAUGHT,
    assert_resumes,
    cross_entropy,
    labels,
    logits,
    softened_kl,
)


def program(roster: Roster = TAUGHT, **settings: object) -> Program:
    part = METHOD.build(Settings.model_validate(settings), roster)
    assert isinstance(part, Part)
    return compose([part], roster)


def engine_of(built: Program | None = None) -> Engine:
    return engine_for(built or program(), teachers=[trained_teacher()])


def only_turn(number: int) -> Program:
    """The discriminator's turn (0) or the student's (1) alone."""
    built = program()
    (phase,) = built.phases
    return replace(built, phases=(replace(phase, turns=(phase.turns[number],)),))


def embedding(engine: Engine, role: str, *, learns: bool = False) -> Array:
    participant = engine.roles[role].copy()
    participant.module.train(learns)
    with torch.no_grad():
        values = participant.run(tiny_batch(0).views["x"], ("embedding",))["embedding"]
    return np.asarray(values.double().numpy())


def layer(engine: Engine, role: str, name: str) -> tuple[Array, Array]:
    state = engine.roles[role].module.state_dict()
    return state[f"{name}weight"].double().numpy(), state[f"{name}bias"].double().numpy()


def score(engine: Engine, features: Array) -> Array:
    """The discriminator, written out."""
    for number in (0, 2, 4):
        weight, bias = layer(engine, DISCRIMINATOR, f"layers.{number}.")
        features = features @ weight.T + bias
        if number < 4:
            features = np.where(features > 0, features, 0.2 * features)
    return features


def translated(engine: Engine, features: Array) -> Array:
    weight, bias = layer(engine, TRANSLATOR, "")
    return np.asarray(features @ weight.T + bias)


# ---- Values --------------------------------------------------------------------------------------


def test_the_discriminator_minimizes_the_binary_cross_entropy_of_the_features() -> None:
    """-mean log D(e_t) - mean log(1 - D(r(e_s))), the student at rest."""
    engine = engine_of()
    real = score(engine, embedding(engine, "teacher"))
    fake = score(engine, translated(engine, embedding(engine, "student")))
    expected = np.log(1 + np.exp(-real)).mean() + np.log(1 + np.exp(fake)).mean()
    (values,) = train(engine, 2, steps=[0])
    assert values["psn-discriminator"] == pytest.approx(expected, rel=1e-5)


def test_the_students_turn_is_equation_14_in_our_reduction() -> None:
    """0.1 CE + 0.9 T^2 KL - 0.1 mean log D(r(e_s)), T = 4."""
    engine = engine_of(only_turn(1))
    student = logits(engine, "student", 0, learns=True)
    fake = score(engine, translated(engine, embedding(engine, "student", learns=True)))
    soft = softened_kl(logits(engine, "teacher", 0), student, 4.0)
    deceived = np.log(1 + np.exp(-fake)).mean()
    expected = 0.1 * cross_entropy(student, labels(0)) + 0.9 * soft + 0.1 * deceived
    (values,) = train(engine, 2, steps=[0])
    assert values["psn"] == pytest.approx(deceived, rel=1e-5)
    assert values["total"] == pytest.approx(expected, rel=1e-4)


def test_response_l2_is_half_the_squared_error_of_the_logits() -> None:
    engine = engine_of(program(response="l2"))
    train(engine, 2, steps=[])
    student, teacher = logits(engine, "student", 0, learns=True), logits(engine, "teacher", 0)
    (values,) = train(engine, 2, steps=[0])
    expected = 0.5 * ((student - teacher) ** 2).sum(axis=1).mean()
    assert values["psn-response"] == pytest.approx(expected, rel=1e-4)


def test_without_weights_nothing_but_the_labels_is_left() -> None:
    built = program(response="none", weight=0.0)
    task, deceive = built.phases[0].turns[1].terms
    assert (task.name, task.weight, deceive.weight) == ("task", 0.1, 0.0)


def test_feature_maps_are_averaged_over_their_positions() -> None:
    maps = torch.arange(24.0).view(2, 3, 2, 2)
    assert pooled(maps).tolist() == [[1.5, 5.5, 9.5], [13.5, 17.5, 21.5]]
    train(engine_of(program(taps={"stage2": "stage3"})), 2)


# ---- Limits and turns ----------------------------------------------------------------------------


def cast_of(built: Program) -> Cast:
    return assemble(built, given_roles(tiny_participant(), [trained_teacher()]), IMAGE_SHAPE, seed=0)


def gradients(cast: Cast, built: Program, turn: int, term: str) -> dict[str, list[Tensor | None]]:
    """Role -> gradients of one term of a turn, computed as the turn would."""
    live, acting = Live(cast, Precision("fp32", "cpu"), 0, {}, {}), built.phases[0].turns[turn]
    (chosen,) = (each for each in acting.terms if each.name == term)
    context = Context(live, acting, Progress(0, 0, 0.0, turn), tiny_batch(0), OutputCache())
    chosen.compute(TermContext(context, chosen)).backward()  # type: ignore[no-untyped-call]
    return {name: [p.grad for p in role.module.parameters()] for name, role in cast.roles.items()}


def last_layer(discriminator: nn.Module) -> nn.Linear:
    assert isinstance(discriminator, Discriminator)
    last = discriminator.layers[-1]
    assert isinstance(last, nn.Linear)
    return last


def test_a_constant_discriminator_gives_the_student_no_gradient() -> None:
    built = program()
    cast = cast_of(built)
    with torch.no_grad():
        last_layer(cast.roles[DISCRIMINATOR].module).weight.zero_()
    found = gradients(cast, built, 1, "psn")
    reached = [grad for grad in found["student"] if grad is not None]
    assert reached and all(not grad.any() for grad in reached)


def test_a_discriminator_that_sees_no_difference_is_at_two_ln_two() -> None:
    engine = engine_of()
    with torch.no_grad():
        for parameter in last_layer(engine.roles[DISCRIMINATOR].module).parameters():
            parameter.zero_()
    (values,) = train(engine, 2, steps=[0])
    assert values["psn-discriminator"] == pytest.approx(2 * math.log(2))


def test_no_gradient_of_the_discriminators_turn_reaches_the_networks() -> None:
    built = program()
    found = gradients(cast_of(built), built, 0, "psn-discriminator")
    learned = {role for role, grads in found.items() if any(grad is not None for grad in grads)}
    assert learned == {DISCRIMINATOR}


@pytest.mark.parametrize(("turn", "learning"), [(0, {DISCRIMINATOR}), (1, {"student", TRANSLATOR})])
def test_each_turn_changes_its_own_roles(turn: int, learning: set[str]) -> None:
    engine = engine_of(only_turn(turn))
    before = {role: weights(engine, role) for role in engine.roles}
    train(engine, 3)
    assert {role for role in engine.roles if differ(before[role], weights(engine, role))} == learning


def test_the_discriminator_learns_to_tell_resting_networks_apart() -> None:
    values = train(engine_of(only_turn(0)), 60)
    assert values[-1]["psn-discriminator"] < 0.7 * 2 * math.log(2)


def test_the_discriminator_has_an_optimizer_of_its_own() -> None:
    adversary = program(learning_rate=0.002).phases[0].turns[0]
    assert adversary.optimizer["learning_rate"] == 0.002
    assert adversary.optimizer["name"] == "adamw"


# ---- Needs ---------------------------------------------------------------------------------------


def test_it_stands_beside_another_method() -> None:
    uses = (MethodUse.model_validate({"name": "psn", "response": "none"}), MethodUse(name="at"))
    built = build_program(
        DistillSettings(method=uses), num_teachers=1, student_taps=TAPS, teacher_taps=[TAPS]
    )
    (values,) = train(engine_of(built), 2, steps=[0])
    assert values.keys() == {"task", "psn", "psn-discriminator", "at", "total", "learning_rate"}


def test_a_network_without_an_embedding_is_refused() -> None:
    with pytest.raises(UsageError, match="no tap `embedding`"):
        program(Roster(("teacher",), (), {"teacher": TAPS}))


def test_it_resumes() -> None:
    assert_resumes(engine_of, 4, at=(1, 3))
