"""What a registered method is: a card, its settings, and a function from settings to (part of) a program."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch.nn.functional as F
from torch import Tensor

from edgekd.core.config import Config
from edgekd.core.errors import UsageError
from edgekd.data.sampling import Sampler
from edgekd.distill.card import Card
from edgekd.distill.context import TermContext
from edgekd.distill.hooks import Hook
from edgekd.distill.program import LOGITS, Needs, Phase, Program, Role, Term, Train, Turn
from edgekd.distill.weights import Weight

STUDENT = "student"
TapPairs = tuple[tuple[str, str], ...]
"""(student's tap, teacher's tap)."""


@dataclass(frozen=True)
class Task:
    """The task itself: cross-entropy with the labels. `weight` None leaves it to the method."""

    weight: float | None = None
    label_smoothing: float = 0.0

    def term(
        self,
        role: str = STUDENT,
        *,
        weight: Weight = 1.0,
        name: str = "task",
        tap: str = LOGITS,
        view: str = "x",
    ) -> Term:
        """weight x mean over the batch of -log p(label); the recipe's task weight replaces `weight`.

        tap: where the role has the logits [B, C] (an exit, a branch).
        """

        def cross_entropy(context: TermContext) -> Tensor:
            logits = context.tap(role, tap, view)
            return F.cross_entropy(logits, context.labels, label_smoothing=self.label_smoothing)

        needs = Needs(outputs={role: (tap,)}, labels=True, views=(view,))
        return Term(name, cross_entropy, needs, weight if self.weight is None else self.weight)


@dataclass(frozen=True)
class Roster:
    """What a method may know when it writes its program: roles and their tap names, no live network."""

    teacher_roles: tuple[str, ...] = ()
    student_taps: tuple[str, ...] = ()
    teacher_taps: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Role -> class names, where known."""
    task: Task = field(default_factory=Task)

    @property
    def student(self) -> str:
        return STUDENT

    @property
    def teachers(self) -> tuple[str, ...]:
        """All teachers; raises `UsageError` if there is none."""
        if not self.teacher_roles:
            raise UsageError("needs a teacher and there is none", fix="give the step an input `teachers`")
        return self.teacher_roles

    @property
    def teacher(self) -> str:
        """The only teacher; raises `UsageError` for none and for several."""
        if len(self.teachers) > 1:
            raise UsageError(
                f"takes one teacher and there are {len(self.teachers)}",
                fix="name one in the step's `teachers`",
            )
        return self.teachers[0]

    @property
    def several_teachers(self) -> tuple[str, ...]:
        """All teachers; raises `UsageError` for fewer than two."""
        if len(self.teachers) < 2:
            raise UsageError(
                "needs two teachers or more and there is one",
                fix="name several steps in the step's `teachers`, or use `kd`",
            )
        return self.teachers

    @property
    def stages(self) -> tuple[str, ...]:
        """The student's stage taps in the order of depth; raises `UsageError` where there are none."""
        stages = _stages(self.student_taps)
        if not stages:
            raise UsageError(
                "needs feature taps `stage1`.. in the student, which has none",
                choices=self.student_taps,
                fix="declare them in the network (`self.taps`), or use a method on logits",
            )
        return tuple(stages)

    def pairs(self, wanted: Mapping[str, str] | None) -> TapPairs:
        """`wanted` (student's tap -> teacher's), or the stages of both, matched from the deepest up.

        Raises `UsageError` when a name is not a tap or the networks have no stages.
        """
        teacher_taps = self.teacher_taps.get(self.teacher, ())
        if wanted:
            for tap, legal, whose in (
                *((tap, self.student_taps, "student") for tap in wanted),
                *((tap, teacher_taps, "teacher") for tap in wanted.values()),
            ):
                _check_tap(tap, legal, whose)
            return tuple(wanted.items())
        student, teacher = _stages(self.student_taps), _stages(teacher_taps)
        count = min(len(student), len(teacher))
        if count == 0:
            raise UsageError(
                "needs feature taps `stage1`.. in student and teacher, and one of them has none",
                fix="give `taps: {student's: teacher's}`, or use a response method",
            )
        return tuple(zip(student[-count:], teacher[-count:], strict=True))


def _check_tap(tap: str, legal: tuple[str, ...], whose: str) -> None:
    if tap not in legal:
        raise UsageError(f"the {whose} has no tap `{tap}`", choices=legal, fix="name one of its taps")


def _stages(taps: tuple[str, ...]) -> list[str]:
    """`stage1`, `stage2`, ... in the order of depth."""
    stages = [tap for tap in taps if re.fullmatch(r"stage\d+", tap)]
    return sorted(stages, key=lambda tap: int(tap.removeprefix("stage")))


@dataclass(frozen=True)
class Part:
    """What a composable method adds to the training of the student.

    terms join the student's turn. turns (a discriminator's) come before it in the main phase. before:
    phases that precede it (`share` counts against 1.0 for the main phase). task_weight: the paper's weight
    of the cross-entropy with the labels. sampler: how batches are made up. train: roles that learn beside
    the student in its turn (a translator that other turns use too; what no other turn uses is an adapter).
    """

    terms: tuple[Term, ...] = ()
    train: tuple[Train, ...] = ()
    roles: Mapping[str, Role] = field(default_factory=dict)
    turns: tuple[Turn, ...] = ()
    before: tuple[Phase, ...] = ()
    hooks: tuple[Hook, ...] = ()
    task_weight: float = 1.0
    sampler: Sampler = "shuffled"


class UnknownTaps(tuple[str, ...]):
    """The taps of a network that only the run knows: those of usual networks, and no name is ruled out."""

    def __contains__(self, tap: object) -> bool:
        return True


UNKNOWN_TAPS = UnknownTaps(
    (*(f"stage{n}{end}" for n in (1, 2, 3) for end in ("", ":pre")), "embedding", LOGITS)
)


S = TypeVar("S", bound=Config)


@dataclass(frozen=True)
class Method(Generic[S]):
    """A published method under its registered name."""

    card: Card
    settings: type[S]
    build: Callable[[S, Roster], Part | Program]


AnyMethod = Method[Any]
