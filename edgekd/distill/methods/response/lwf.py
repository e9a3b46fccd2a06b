"""Learning without Forgetting, Li & Hoiem, TPAMI 2018 (arXiv 1606.09282), equations 2 to 4.

    L = CE(y, z_s) + weight T^2 KL(softmax(z_old / T) || softmax(z_s[old classes] / T))

on the new data alone: the old model (the teacher) answers for the classes it knows, so that a student with
more classes keeps them without their images.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from edgekd.core.classes import places
from edgekd.core.config import Config
from edgekd.core.errors import UsageError
from edgekd.distill.card import Card
from edgekd.distill.context import TermContext
from edgekd.distill.kernels.respond import kl
from edgekd.distill.method import Method, Part, Roster
from edgekd.distill.program import LOGITS, Needs, Term

CARD = Card(
    name="lwf",
    title="Learning without forgetting",
    paper="Li, Hoiem: Learning without Forgetting. ECCV 2016, TPAMI 40(12) 2018, arXiv 1606.09282",
    equation="weight T^2 KL(p_old || p_s over the old classes) at temperature T; sum over them, batch mean",
    catalogue_id="lwf",
    knowledge="response",
    scheme="offline",
    needs="one teacher: the old model, whose classes (`labels:` in a recipe) are among the student's",
    defaults=(
        "T = 2, task weight 1, weight 1/4: the paper's lambda = 1 multiplies a cross-entropy at T = 2 "
        "without T^2; the target's entropy, a constant, is left out"
    ),
    cost="one forward pass of the old model (none where its answers are on file)",
    deviations=(
        "one classifier over all classes, the old ones found by name; the paper has a head per task and the "
        "cross-entropy sees the new head only",
        "the paper first trains the new head alone (warm-up), then everything; here everything at once",
        "the paper's network starts from the old model; here the student starts as the recipe says, because "
        "the classifiers differ in size",
    ),
)


def old_columns(old: tuple[str, ...] | None, all_classes: tuple[str, ...] | None) -> tuple[int, ...] | None:
    """Where each old class stands among all classes; None (unknown names) stands for the first ones in order.

    Raises `UsageError` for an old class that is not among them.
    """
    if old is None or all_classes is None:
        return None
    return places(old, all_classes, whose="the teacher's")


def of_old_classes(student_logits: Tensor, num_old: int, columns: tuple[int, ...] | None) -> Tensor:
    """The student's logits [B, num_old] of the old classes; student_logits: [B, C].

    Raises `UsageError` if the student has fewer classes than the old model.
    """
    if num_old > student_logits.shape[1]:
        raise UsageError(
            f"the teacher has {num_old} classes, the student {student_logits.shape[1]}",
            fix="the student's classes must include the teacher's",
        )
    if columns is None:
        return student_logits[:, :num_old]
    return student_logits.index_select(1, torch.tensor(columns, device=student_logits.device))


class Settings(Config):
    """temperature: T. weight: of the term that keeps the old classes."""

    temperature: float = Field(2.0, gt=0)
    weight: float = Field(0.25, ge=0)


def build(settings: Settings, roster: Roster) -> Part:
    student, teacher, temperature = roster.student, roster.teacher, settings.temperature
    columns = old_columns(roster.labels.get(teacher), roster.labels.get(student))

    def compute(context: TermContext) -> Tensor:
        old = context.logits(teacher).detach()
        mine = of_old_classes(context.logits(student), old.shape[1], columns)
        return kl(mine, F.softmax(old / temperature, dim=1), temperature)

    needs = Needs(outputs={student: (LOGITS,), teacher: (LOGITS,)}, same_labels=False)
    return Part(terms=(Term("lwf", compute, needs, settings.weight),))


METHOD = Method(CARD, Settings, build)
