"""Any registered method on tiny networks: its program, an engine that runs it, its terms one at a time."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from edgekd.data.batch import Batch
from edgekd.distill.cast import Cast, assemble
from edgekd.distill.catalogue import card
from edgekd.distill.compose import build_program
from edgekd.distill.context import Context, Live, Memory, OutputCache, Progress, TermContext
from edgekd.distill.engine import Engine
from edgekd.distill.launch import Arrays, given_roles, make_engine
from edgekd.distill.participant import Participant
from edgekd.distill.program import Given, Phase, Program, Term, Turn
from edgekd.distill.settings import DistillSettings, MethodUse
from edgekd.distill.update import Rules
from edgekd.networks.model import portable
from edgekd.testing.tiny_networks import (
    IMAGE_SHAPE,
    NUM_IMAGES,
    TinyStream,
    tiny_batch,
    tiny_images,
    tiny_participant,
)
from edgekd.train.optimizer import OptimizerConfig
from edgekd.train.precision import Precision
from edgekd.train.schedule import ScheduleConfig
from edgekd.train.trainable import Position

RULES = Rules(
    OptimizerConfig(name="adamw", learning_rate=0.005, weight_decay=0.0), ScheduleConfig(name="constant")
)
BATCH_SIZE = 16
STEPS_PER_EPOCH = NUM_IMAGES // BATCH_SIZE
SEED = 3
_TEACHER_WIDTHS = (8, 6, 10)


# ---- Networks ------------------------------------------------------------------------------------


def validation_arrays() -> Arrays:
    images, labels = tiny_images(64, seed=5)
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return np.ascontiguousarray(pixels.numpy()), labels.numpy()


def trained_teacher(number: int = 0) -> Participant:
    """A fresh copy of a teacher that knows the tiny task; another number is another width and training."""
    teacher = tiny_participant(_TEACHER_WIDTHS[number], name="teacher")
    teacher.module.load_state_dict(dict(_teacher_weights(number)))
    return teacher


@functools.cache
def _teacher_weights(number: int) -> Mapping[str, Tensor]:
    """Trained by the program `none`, as every teacher is."""
    student = tiny_participant(_TEACHER_WIDTHS[number], seed=number + 1, name="teacher")
    engine = make_engine(
        program_of("none", student, ()),
        student=student,
        validation=validation_arrays(),
        image_shape=IMAGE_SHAPE,
        rules=RULES,
        seed=SEED,
    )
    train(engine, 60)
    return engine.deployed(best=False).state_dict()


def program_of(name: str, student: Participant, teachers: Sequence[Participant]) -> Program:
    """The method's program with its default parameters, its phases equally long."""
    given = given_roles(student, teachers)
    program = build_program(
        DistillSettings(method=(MethodUse(name=name),)),
        num_teachers=len(teachers),
        student_taps=tuple(student.taps),
        teacher_taps=[tuple(teacher.taps) for teacher in teachers],
        labels={role: network.labels for role, network in given.items() if network.labels},
    )
    return replace(program, phases=tuple(replace(phase, share=1.0) for phase in program.phases))


@dataclass(frozen=True)
class Setting:
    """A method's program and the networks it is tried on: as many teachers as its card asks for."""

    program: Program
    student: Participant
    teachers: tuple[Participant, ...]
    others: Mapping[str, Participant]

    @classmethod
    def of(cls, name: str, *, same: bool = False) -> Setting:
        """`same`: student and teachers are one trained network."""
        count = card(name).num_teachers
        student = trained_teacher() if same else tiny_participant(seed=SEED)
        teachers = tuple(trained_teacher(0 if same else number) for number in range(count))
        program = program_of(name, student, teachers)
        known = given_roles(student, teachers)
        asked = [role for role, origin in program.roles.items() if isinstance(origin, Given)]
        others = {role: tiny_participant(6, name=role) for role in asked if role not in known}
        return cls(program, student, teachers, others)

    @property
    def given(self) -> dict[str, Participant]:
        return given_roles(self.student, self.teachers, self.others)

    def streams(self, size: int = 12, dtype: torch.dtype = torch.float32) -> dict[str, TinyStream]:
        """Every stream that a turn of the program draws from."""
        return {name: TinyStream(views, size, dtype) for name, views in self.program.streams.items()}

    def engine(self, *, precision: Precision | None = None, stream_size: int = 12) -> Engine:
        """It trains the setting's own networks, so a setting serves one engine."""
        return make_engine(
            self.program,
            student=self.student,
            teachers=self.teachers,
            others=self.others,
            validation=validation_arrays(),
            image_shape=IMAGE_SHAPE,
            rules=RULES,
            seed=SEED,
            precision=precision,
            streams=self.streams(stream_size),
        )


def batch_of(program: Program, step: int, *, size: int = BATCH_SIZE) -> Batch:
    return tiny_batch(step, size=size, views=program.views, sampler=program.sampler)


# ---- Training ------------------------------------------------------------------------------------


def engine_of(name: str, *, precision: Precision | None = None, stream_size: int = 12) -> Engine:
    """An engine on tiny networks; the student starts from the same weights for every name."""
    return Setting.of(name).engine(precision=precision, stream_size=stream_size)


@dataclass(frozen=True)
class Step:
    """What one update said, and the number of the phase that it belongs to."""

    phase: int
    values: dict[str, float]


def steps(
    engine: Engine, num_steps: int, *, begin: int = 0, end: int | None = None, size: int = BATCH_SIZE
) -> Iterator[Step]:
    """Train from step `begin` to `end` of a training of `num_steps`, as the loop does, with its epochs."""
    for number in range(begin, num_steps if end is None else end):
        epoch, place = divmod(number, STEPS_PER_EPOCH)
        position = Position(number, num_steps, epoch, -(-num_steps // STEPS_PER_EPOCH))
        values = engine.step(batch_of(engine.program, number, size=size), position)
        if place == STEPS_PER_EPOCH - 1:
            engine.end_epoch(position)
            engine.evaluate()
            engine.keep()
        yield Step(phase_number(engine), values)


def train(engine: Engine, num_steps: int, *, begin: int = 0, end: int | None = None) -> list[Step]:
    return list(steps(engine, num_steps, begin=begin, end=end))


def phase_number(engine: Engine) -> int:
    """Of the phase that the last step belonged to."""
    return next(n for n, phase in enumerate(engine.program.phases) if phase is engine.phase)


def moving(phase: Phase) -> frozenset[str]:
    """Roles that may change in a phase: they learn, gather statistics, or a hook writes them."""
    trained = [role for turn in phase.turns for role in turn.trained]
    gathering = [role for turn in phase.turns for role, mode in turn.modes.items() if mode == "train"]
    return frozenset([*trained, *gathering, *(start.role for start in phase.start)]) | hooked(phase)


def hooked(phase: Phase) -> frozenset[str]:
    return frozenset(role for hook in phase.hooks for role in hook.changes)


def distillation_terms(program: Program) -> list[tuple[Turn, Term]]:
    """Everything but cross-entropy with the labels."""
    return [(turn, term) for turn in program.turns for term in turn.terms if not is_task(term)]


def is_task(term: Term) -> bool:
    return term.name.startswith("task")


# ---- One term at a time --------------------------------------------------------------------------


class Noted(TermContext):
    """Notes whether a term draws random numbers or remembers something."""

    stateful = False

    def generator(self) -> torch.Generator:
        self.stateful = True
        return super().generator()

    @property
    def memory(self) -> Memory:
        self.stateful = True
        return super().memory


class Stage:
    """A program's live networks, in evaluation mode, where single terms are computed.

    `same`: all networks of one architecture have the same weights, and all views show the same images.
    """

    def __init__(self, name: str, *, same: bool = False, dtype: torch.dtype = torch.float32) -> None:
        setting = Setting.of(name, same=same)
        self.program = setting.program
        self._same = same
        self._dtype = dtype
        cast = assemble(self.program, setting.given, IMAGE_SHAPE, SEED)
        if same:
            _share_weights(self.program, cast)
        self.live = Live(cast, Precision("fp32", "cpu"), SEED, setting.streams(dtype=dtype), {})
        for role in cast.roles.values():
            role.module.to(dtype).eval()
        for adapter in itertools.chain.from_iterable(terms.values() for terms in cast.adapters.values()):
            adapter.to(dtype).eval()

    def context(self, turn: Turn, change: Callable[[Batch], Batch] | None = None) -> Context:
        """One update of the turn with a batch from the turn's own source, which `change` may alter."""
        self.live.memory.clear()
        given = batch_of(self.program, 0)
        views = {name: view.to(self._dtype) for name, view in given.views.items()}
        context = Context(self.live, turn, Progress(0, 0, 0.0), replace(given, views=views), OutputCache())
        if self._same:
            context.batch = _showing_one_view(context.batch)
        if change is not None:
            context.batch = change(context.batch)
        return context

    def noted(self, turn: Turn, term: Term) -> Noted:
        """The context after the term was computed in it."""
        context = Noted(self.context(turn), term)
        term.compute(context)
        return context

    def value(self, turn: Turn, term: Term, change: Callable[[Batch], Batch] | None = None) -> Tensor:
        return term.compute(TermContext(self.context(turn, change), term))

    def number(self, turn: Turn, term: Term, change: Callable[[Batch], Batch] | None = None) -> float:
        return float(self.value(turn, term, change).detach())


def _share_weights(program: Program, cast: Cast) -> None:
    """Give every network that can hold them the weights of the deployed one."""
    state = cast.roles[program.deploy.network].module.state_dict()
    shapes = {key: value.shape for key, value in state.items()}
    for role in cast.roles.values():
        own = role.module.state_dict()
        if {key: value.shape for key, value in own.items()} == shapes:
            role.module.load_state_dict(portable(state))


def _showing_one_view(batch: Batch) -> Batch:
    """Every view shows what `x` shows; those of a stream (`unlabeled:x2`) what its `x` shows."""
    first = {name: name.rpartition(":")[0] for name in batch.views}
    shown = {name: batch.views[f"{stream}:x" if stream else "x"] for name, stream in first.items()}
    return replace(batch, views=shown)


def selected(batch: Batch, rows: Callable[[int], Tensor]) -> Batch:
    """The samples `rows(number of samples)`, of the batch and of a stream beside it."""
    views = {name: view[rows(len(view))] for name, view in batch.views.items()}
    chosen = rows(len(batch.labels))
    return replace(batch, views=views, labels=batch.labels[chosen], indices=batch.indices[chosen])
