"""The contract that every registered distillation method keeps; third parties run it on theirs.

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_my_method(check):
        check("my-method")

Every check takes the registered name and raises `AssertionError` saying what was found. Networks are tiny,
have three stages; a method that needs more than the student and one teacher gets further roles by `others`.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from edgekd.data.batch import Batch
from edgekd.distill.cast import assemble
from edgekd.distill.catalogue import METHODS, card
from edgekd.distill.compose import build_program
from edgekd.distill.context import Context, Live, OutputCache, Progress, TermContext
from edgekd.distill.engine import Engine
from edgekd.distill.launch import Arrays, given_roles, make_engine
from edgekd.distill.participant import Participant
from edgekd.distill.program import Program, Term, Turn
from edgekd.distill.settings import DistillSettings, MethodUse
from edgekd.distill.update import Rules
from edgekd.networks.model import portable
from edgekd.testing.tiny_networks import (
    IMAGE_SHAPE,
    TinyNet,
    tiny_batch,
    tiny_images,
    tiny_participant,
)
from edgekd.train.optimizer import OptimizerConfig
from edgekd.train.precision import Precision
from edgekd.train.schedule import ScheduleConfig
from edgekd.train.trainable import Position

Check = Callable[[str], None]
RULES = Rules(
    OptimizerConfig(name="adamw", learning_rate=0.005, weight_decay=0.0), ScheduleConfig(name="constant")
)
NUM_STEPS_PER_PHASE = 50
_SEED = 3


# ---- Running a method ----------------------------------------------------------------------------


def program_of(name: str, student: Participant, teacher: Participant) -> Program:
    """The method's program with its default parameters."""
    return build_program(
        DistillSettings(method=(MethodUse(name=name),)),
        num_teachers=1,
        student_taps=tuple(student.taps),
        teacher_taps=[tuple(teacher.taps)],
    )


def validation_arrays() -> Arrays:
    images, labels = tiny_images(64, seed=5)
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return np.ascontiguousarray(pixels.numpy()), labels.numpy()


@functools.cache
def _teacher_weights() -> Mapping[str, Tensor]:
    """A teacher trained by the program `none`, as every teacher is."""
    student = tiny_participant(8, seed=1, name="teacher")
    engine = make_engine(
        program_of("none", student, student),
        student=student,
        validation=validation_arrays(),
        image_shape=IMAGE_SHAPE,
        rules=RULES,
        seed=_SEED,
    )
    _train(engine, 60)
    return engine.deployed().state_dict()


def trained_teacher() -> Participant:
    """A fresh copy of one teacher that knows the tiny task."""
    teacher = tiny_participant(8, name="teacher")
    teacher.module.load_state_dict(dict(_teacher_weights()))
    return teacher


def engine_of(name: str, *, precision: Precision | None = None) -> Engine:
    """An engine on tiny networks; the student starts from the same weights for every name."""
    student, teacher = tiny_participant(seed=_SEED), trained_teacher()
    return make_engine(
        program_of(name, student, teacher),
        student=student,
        teachers=[teacher],
        validation=validation_arrays(),
        image_shape=IMAGE_SHAPE,
        rules=RULES,
        seed=_SEED,
        precision=precision,
    )


def _train(
    engine: Engine, num_steps: int, *, begin: int = 0, end: int | None = None
) -> list[dict[str, float]]:
    views = engine.program.views
    return [
        engine.step(tiny_batch(step, views=views), Position(step, num_steps, 0, 1))
        for step in range(begin, num_steps if end is None else end)
    ]


def _num_steps(program: Program) -> int:
    """Enough for `NUM_STEPS_PER_PHASE` in the shortest phase."""
    shares = [phase.share for phase in program.phases]
    return round(NUM_STEPS_PER_PHASE * sum(shares) / min(shares))


def _distillation_terms(program: Program) -> list[tuple[Turn, Term]]:
    """Everything but cross-entropy with the labels."""
    return [(turn, term) for turn in program.turns for term in turn.terms if not term.name.startswith("task")]


# ---- Evaluating one term -------------------------------------------------------------------------


class _Stage:
    """A program's live networks, in evaluation mode, where single terms are computed."""

    def __init__(self, name: str, *, same: bool = False, dtype: torch.dtype = torch.float32) -> None:
        student, teacher = tiny_participant(seed=_SEED), trained_teacher()
        if same:
            student = teacher.copy()
        self.program = program_of(name, student, teacher)
        self.dtype = dtype
        cast = assemble(self.program, given_roles(student, [teacher]), IMAGE_SHAPE, _SEED)
        self.live = Live(cast, Precision("fp32", "cpu"), _SEED, {}, {})
        for role in cast.roles.values():
            role.module.to(dtype).eval()
        for adapters in cast.adapters.values():
            for adapter in adapters.values():
                adapter.to(dtype)

    def batch(self) -> Batch:
        batch = tiny_batch(0, views=self.program.views)
        views = {name: view.to(self.dtype) for name, view in batch.views.items()}
        return replace(batch, views=views)

    def context(self, turn: Turn, batch: Batch) -> Context:
        return Context(self.live, turn, Progress(0, 0, 0.0), batch, OutputCache())

    def value(self, turn: Turn, term: Term, batch: Batch) -> Tensor:
        return term.compute(TermContext(self.context(turn, batch), term))


def _shuffled(batch: Batch) -> Batch:
    order = torch.randperm(len(batch.labels), generator=torch.Generator().manual_seed(0))
    views = {name: view[order] for name, view in batch.views.items()}
    return Batch(views, batch.labels[order], batch.indices[order])


# ---- The checks ----------------------------------------------------------------------------------


def values_are_finite(name: str) -> None:
    stage = _Stage(name)
    for turn in stage.program.turns:
        for term in turn.terms:
            value = stage.value(turn, term, stage.batch())
            assert value.dim() == 0 and torch.isfinite(value), f"`{term.name}` gave {value}"


def gradient_reaches_what_is_trained(name: str) -> None:
    stage = _Stage(name)
    for turn in stage.program.turns:
        for term in turn.terms:
            stage.value(turn, term, stage.batch()).backward()  # type: ignore[no-untyped-call]
        for role in turn.trained:
            assert _has_gradient(stage, role), f"no gradient reaches `{role}`"
        for term in turn.terms:
            for key, adapter in stage.live.cast.adapters[term.name].items():
                reached = all(p.grad is not None for p in adapter.parameters())
                assert reached, f"no gradient reaches adapter `{key}` of `{term.name}`"


def _has_gradient(stage: _Stage, role: str) -> bool:
    gradients = [p.grad for p in stage.live.cast.roles[role].module.parameters()]
    return any(grad is not None and bool(grad.abs().sum() > 0) for grad in gradients)


def frozen_roles_stay_untouched(name: str) -> None:
    engine = engine_of(name)
    frozen = set(engine.roles) - engine.program.changing
    before = {role: portable(engine.roles[role].module.state_dict()) for role in frozen}
    _train(engine, 4)
    for role in frozen:
        module = engine.roles[role].module
        assert all(p.grad is None for p in module.parameters()), f"`{role}` got a gradient"
        changed = [k for k, v in module.state_dict().items() if not torch.equal(v, before[role][k])]
        assert not changed, f"`{role}` changed: {changed}"


def terms_vanish_at_match(name: str) -> None:
    if not card(name).zero_at_match:
        return
    stage = _Stage(name, same=True)
    for turn, term in _distillation_terms(stage.program):
        value = float(stage.value(turn, term, stage.batch()).detach())
        assert abs(value) < 1e-6, f"`{term.name}` is {value} when student and teacher agree"


def float64_gives_the_same_value(name: str) -> None:
    single, double = _Stage(name), _Stage(name, dtype=torch.float64)
    for (turn, term), (turn64, term64) in zip(
        _distillation_terms(single.program), _distillation_terms(double.program), strict=True
    ):
        value = float(single.value(turn, term, single.batch()).detach())
        expected = double.value(turn64, term64, double.batch()).detach()
        assert expected.dtype == torch.float64, f"`{term.name}` leaves float64"
        assert abs(value - float(expected)) <= 1e-4 * max(abs(float(expected)), 1e-3), f"`{term.name}`"


def order_of_samples_does_not_matter(name: str) -> None:
    if not card(name).permutation_invariant:
        return
    stage = _Stage(name, dtype=torch.float64)
    for turn, term in _distillation_terms(stage.program):
        value = float(stage.value(turn, term, stage.batch()).detach())
        other = float(stage.value(turn, term, _shuffled(stage.batch())).detach())
        assert abs(value - other) <= 1e-9 * max(1.0, abs(value)), f"`{term.name}`: {value} and {other}"


def needs_are_exact(name: str) -> None:
    stage = _Stage(name)
    for turn in stage.program.turns:
        for term in turn.terms:
            context = TermContext(stage.context(turn, stage.batch()), term)
            term.compute(context)
            unused = _declared(term) - context.touched
            assert not unused, f"`{term.name}` declares what it does not use: {sorted(unused)}"


def _declared(term: Term) -> set[tuple[str, ...]]:
    needs = term.needs
    declared: set[tuple[str, ...]] = {
        ("outputs", r, tap) for r, taps in needs.outputs.items() for tap in taps
    }
    declared |= {("calls", role) for role in needs.calls} | {("modules", role) for role in needs.modules}
    declared |= {("adapters", key) for key in term.adapters}
    declared |= {("views", view) for view in needs.views} if needs.outputs else set()
    return (
        declared | ({("labels",)} if needs.labels else set()) | ({("indices",)} if needs.indices else set())
    )


def training_resumes_bit_for_bit(name: str) -> None:
    num_steps = 8
    whole, first, second = (engine_of(name) for _ in range(3))
    expected = _train(whole, num_steps)
    _train(first, num_steps, end=5)
    second.load_state(first.state())
    assert _train(second, num_steps, begin=5) == expected[5:], "other term values after resuming"
    _assert_equal(second.state(), whole.state(), name)


def _assert_equal(one: Any, other: Any, where: str) -> None:
    if isinstance(one, Tensor):
        assert torch.equal(one, other), f"{where} differs"
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), f"{where}: {set(one) ^ set(other)}"
        for key in one:
            _assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list):
        for number, (left, right) in enumerate(zip(one, other, strict=True)):
            _assert_equal(left, right, f"{where}[{number}]")
    else:
        assert one == other, f"{where}: {one} and {other}"


def runs_under_autocast(name: str) -> None:
    """Forwards in bfloat16, every loss in float32."""
    engine = engine_of(name, precision=Precision("bf16", "cpu"))
    values = _train(engine, 2)
    assert all(np.isfinite(list(step.values())).all() for step in values), f"{values}"
    for role in engine.program.changing:
        dtypes = {p.dtype for p in engine.roles[role].module.parameters()}
        assert dtypes == {torch.float32}, f"`{role}` is kept in {dtypes}"


def terms_fall_in_training(name: str) -> None:
    """By at least 30 % within their phase, first value against the mean of the last five."""
    engine = engine_of(name)
    history = _train(engine, _num_steps(engine.program))
    for _, term in _distillation_terms(engine.program):
        values = [step[term.name] for step in history if term.name in step]
        last = sum(values[-5:]) / 5
        assert last <= 0.7 * values[0], f"`{term.name}` went from {values[0]} to {last}"


def student_differs_from_the_control(name: str) -> None:
    """Same start weights as `none`, other weights after training."""
    if name == "none":
        return
    engine, control = engine_of(name), engine_of("none")
    _assert_equal(
        portable(engine.roles["student"].module.state_dict()),
        portable(control.roles["student"].module.state_dict()),
        "start weights",
    )
    _train(engine, 6)
    _train(control, 6)
    pairs = zip(engine.deployed().parameters(), control.deployed().parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs), "the student is the one that `none` trains"


_RELOAD = """
import sys, numpy, torch
from safetensors.torch import load_file
from edgekd.testing.tiny_networks import TinyNet
torch.set_num_threads(1)
network = TinyNet()
network.load_state_dict(load_file(sys.argv[1]), strict=True)
inputs = torch.from_numpy(numpy.load(sys.argv[2], allow_pickle=False))
with torch.no_grad():
    numpy.save(sys.argv[3], network.eval()(inputs).numpy())
"""


def deployed_model_reloads_elsewhere(name: str) -> None:
    """The deployed weights fit the plain network; a fresh process gives the same logits bit for bit."""
    engine = engine_of(name)
    _train(engine, 4)
    network = engine.deployed()
    assert type(network) is TinyNet
    with tempfile.TemporaryDirectory() as folder:
        weights, inputs, outputs = (Path(folder) / file for file in ("w.safetensors", "x.npy", "y.npy"))
        safetensors.torch.save_file(portable(network.state_dict()), weights)
        images = tiny_images(8, seed=9)[0]
        np.save(inputs, images.numpy())
        subprocess.run([sys.executable, "-c", _RELOAD, weights, inputs, outputs], check=True, timeout=100)
        with _one_thread(), torch.no_grad():
            expected = network(images).numpy()
        assert np.array_equal(np.load(outputs, allow_pickle=False), expected), "other logits after reloading"


class _one_thread:
    """Sums split over another number of threads round differently."""

    def __enter__(self) -> None:
        self._before = torch.get_num_threads()
        torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._before)


def card_is_complete(name: str) -> None:
    """The card belongs to the method, and its default settings are valid."""
    method = METHODS.load(name)
    assert method.card.name == name
    assert method.card.paper and method.card.equation and method.card.needs and method.card.defaults
    method.settings()


CHECKS: tuple[Check, ...] = (
    card_is_complete,
    values_are_finite,
    gradient_reaches_what_is_trained,
    frozen_roles_stay_untouched,
    terms_vanish_at_match,
    float64_gives_the_same_value,
    order_of_samples_does_not_matter,
    needs_are_exact,
    training_resumes_bit_for_bit,
    runs_under_autocast,
    terms_fall_in_training,
    student_differs_from_the_control,
    deployed_model_reloads_elsewhere,
)
