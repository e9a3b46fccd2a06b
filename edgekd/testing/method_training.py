"""Checks of the contract: what training with a method does, and what it leaves alone."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from edgekd.core.errors import DivergedError, UsageError
from edgekd.distill.catalogue import card
from edgekd.distill.engine import Engine
from edgekd.distill.program import Phase
from edgekd.distill.weights import weight_at
from edgekd.networks.model import portable
from edgekd.testing.tiny_runs import (
    Step,
    distillation_terms,
    engine_of,
    hooked,
    moving,
    phase_number,
    steps,
    train,
)
from edgekd.train.precision import Precision

STEPS_PER_PHASE = 50
"""In which every term falls."""
States = Mapping[str, dict[str, Tensor]]
"""Role -> its weights and statistics."""


def every_term_counts_once(name: str) -> None:
    """No name stands twice in a phase, and the total of a step is the weighted sum of its terms."""
    engine = engine_of(name)
    phases = engine.program.phases
    for phase in phases:
        names = [term.name for turn in phase.turns for term in turn.terms]
        twice = {term for term in names if names.count(term) > 1}
        assert not twice, f"phase `{phase.name}` has several terms called {sorted(twice)}"
    num_steps = 2 * len(phases)
    for number, step in enumerate(steps(engine, num_steps)):
        fraction = max(number / num_steps * len(phases) - step.phase, 0.0)
        expected = _weighted_sum(phases[step.phase], step, fraction)
        assert math.isclose(step.values["total"], expected, rel_tol=1e-4, abs_tol=1e-5), (
            f"the total is {step.values['total']}, and the weighted terms add up to {expected}"
        )


def _weighted_sum(phase: Phase, step: Step, fraction: float) -> float:
    terms = [term for turn in phase.turns for term in turn.terms]
    assert {term.name for term in terms} | {"total", "learning_rate"} == step.values.keys()
    return sum(weight_at(term.weight, fraction) * step.values[term.name] for term in terms)


def frozen_roles_stay_untouched(name: str) -> None:
    """What a phase neither trains nor moves by a hook, it leaves as it was."""
    engine = engine_of(name)
    phases, before, left = engine.program.phases, _states(engine), 0
    for step in steps(engine, 2 * len(phases)):
        after, may_change = _states(engine), moving(phases[step.phase])
        if step.phase != left:
            # Hooks have their last word on a phase when the next one begins.
            may_change |= hooked(phases[left])
        _assert_unchanged(before, after, after.keys() - may_change, step.phase)
        before, left = after, step.phase
    for role in engine.roles.keys() - engine.program.changing:
        parameters = engine.roles[role].module.parameters()
        assert all(p.grad is None for p in parameters), f"`{role}` got a gradient"


def _assert_unchanged(before: States, after: States, roles: Iterable[str], phase: int) -> None:
    for role in roles:
        changed = [key for key, value in after[role].items() if not torch.equal(value, before[role][key])]
        assert not changed, f"`{role}` changed in phase {phase + 1}: {changed}"


def _states(engine: Engine) -> States:
    return {name: portable(role.module.state_dict()) for name, role in engine.roles.items()}


def runs_under_autocast(name: str) -> None:
    """Forwards in bfloat16, every loss in float32."""
    engine = engine_of(name, precision=Precision("bf16", "cpu"))
    for step in steps(engine, 2 * len(engine.program.phases)):
        assert np.isfinite(list(step.values.values())).all(), f"{step.values}"
    for role in engine.program.changing:
        dtypes = {p.dtype for p in engine.roles[role].module.parameters()}
        assert dtypes <= {torch.float32}, f"`{role}` is kept in {dtypes}"


def terms_fall_in_training(name: str) -> None:
    """By at least 30 % in the first phase that has them, first value against the mean of the last five."""
    engine = engine_of(name)
    first_phase: dict[str, int] = {}
    for number, phase in enumerate(engine.program.phases):
        for name_of_term in (term.name for turn in phase.turns for term in turn.terms):
            first_phase.setdefault(name_of_term, number)
    history = train(engine, STEPS_PER_PHASE * len(engine.program.phases))
    falling = {term.name for _, term in distillation_terms(engine.program)} - set(card(name).may_rise)
    for term in sorted(falling):
        values = [step.values[term] for step in history if step.phase == first_phase[term]]
        last = sum(values[-5:]) / 5
        assert last <= 0.7 * values[0], f"`{term}` went from {values[0]} to {last}"


def nan_names_its_term(name: str) -> None:
    """In every phase, a network that learns and holds NaN ends the training with the name of a term."""
    num_phases = len(engine_of(name).program.phases)
    for number in range(num_phases):
        engine = _inside(name, number, num_phases)
        turn = engine.phase.turns[0]
        with torch.no_grad():
            for parameter in engine.roles[turn.train[0].role].module.parameters():
                parameter.fill_(torch.nan)
        try:
            next(steps(engine, 4 * num_phases, begin=4 * number + 2))
        except DivergedError as error:
            told = [term.name for term in turn.terms if f"term `{term.name}`" in str(error)]
            assert told, f"it does not name a term of the first turn: {error}"
        else:
            raise AssertionError(f"`{turn.train[0].role}` holds NaN and phase {number + 1} goes on")


def _inside(name: str, number: int, num_phases: int, *, size: int = 16) -> Engine:
    """An engine after the second of four steps of a phase."""
    engine = engine_of(name, stream_size=size)
    next(steps(engine, 4 * num_phases, begin=4 * number + 1, size=size))
    assert phase_number(engine) == number
    return engine


def batch_of_one_works_or_is_refused(name: str) -> None:
    """In every phase: finite weights, or a `UsageError` that speaks of the batch."""
    num_phases = len(engine_of(name).program.phases)
    for number in range(num_phases):
        try:
            engine = _inside(name, number, num_phases, size=1)
        except UsageError as error:
            assert "batch" in str(error), f"it does not say that the batch is too small: {error}"
        except DivergedError as error:
            raise AssertionError(f"a batch of one is not refused: {error}") from error
        else:
            _assert_finite(engine)


def _assert_finite(engine: Engine) -> None:
    for role, state in _states(engine).items():
        infinite = [key for key, value in state.items() if not bool(value.isfinite().all())]
        assert not infinite, f"a batch of one leaves `{role}` with {infinite}"


def student_differs_from_the_control(name: str) -> None:
    """Same start weights as `none`, other weights after training."""
    if name == "none":
        return
    engine = engine_of(name)
    num_steps = max(6, 2 * len(engine.program.phases))
    start, trained = _control(num_steps)
    if engine.program.deploy.network == "student":
        other = [
            key for key, value in _states(engine)["student"].items() if not torch.equal(value, start[key])
        ]
        assert not other, f"the student starts from other weights than with `none`: {other}"
    train(engine, num_steps)
    parameters = dict(engine.deployed(best=False).named_parameters())
    equal = [torch.equal(value, trained[key]) for key, value in parameters.items()]
    assert not all(equal), "the student is the one that `none` trains"


@functools.cache
def _control(num_steps: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights of the student that `none` trains, before and after."""
    engine = engine_of("none")
    start = _states(engine)["student"]
    train(engine, num_steps)
    return start, portable(engine.deployed(best=False).state_dict())
