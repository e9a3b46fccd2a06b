"""Revisiting Knowledge Distillation via Label Smoothing Regularization, Yuan et al., CVPR 2020, section 5.

    L = (1 - alpha) CE(y, z_s) + alpha KL(u_T || p_s),   u_T = softmax(u / T)

u is a virtual teacher: `correct` for the label, (1 - correct) / (C - 1) elsewhere. The student is softened by
the same T (and T^2 multiplies the term) only with `form: paper`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from edgekd.core.config import Config
from edgekd.distill.card import Card
from edgekd.distill.context import TermContext
from edgekd.distill.kernels.respond import kl
from edgekd.distill.method import Method, Part, Roster
from edgekd.distill.program import LOGITS, Needs, Term
from edgekd.distill.targets import virtual_teacher

CARD = Card(
    name="tf-kd-reg",
    title="Teacher-free distillation: a designed distribution as the teacher",
    paper=(
        "Yuan, Tay, Li, Wang, Feng: Revisiting Knowledge Distillation via Label Smoothing Regularization. "
        "CVPR 2020, arXiv 1909.11723"
    ),
    equation="weight KL(softmax(u / T) || p_s), u = 0.99 on the label; sum over classes, mean over the batch",
    catalogue_id="tf-kd-reg",
    knowledge="response",
    scheme="self",
    needs="labels; no teacher",
    defaults=(
        "correct 0.99, T = 20, weight 0.1, task weight 0.9: the authors' ResNet-18 on CIFAR-100, whose "
        "multiplier of 100 undoes the division by the 100 classes in torch's 'mean'; they set alpha, T and "
        "multiplier anew per network (MobileNetV2: 0.95, 40, 1: weight 0.0095 beside task weight 0.05)"
    ),
    cost="nothing to speak of",
    deviations=(
        "two readings: the authors' code softens only the virtual teacher (our default), the paper's "
        "D_KL(p^d_T, p_T) softens both (`form: paper`, with the T^2 that the printed equation leaves out)",
        "the code takes the softmax of the probabilities u, not of their logarithms, so u_T is almost "
        "uniform (label 1.05 times the others at T = 20): both forms do so here",
        "the term may rise: it holds the student near the uniform distribution, whence the labels pull it",
    ),
    zero_at_match=False,
    num_teachers=0,
    may_rise=("tf-kd-reg",),
)


class Settings(Config):
    """correct: the virtual teacher's probability of the label. temperature: T, of the teacher.

    form: `paper` softens the student too and multiplies by T^2, the authors' code does neither.
    """

    correct: float = Field(0.99, gt=0, lt=1)
    temperature: float = Field(20.0, gt=0)
    form: Literal["code", "paper"] = "code"
    weight: float = Field(0.1, ge=0)


def build(settings: Settings, roster: Roster) -> Part:
    student, target = roster.student, virtual_teacher(roster.student, settings.correct)
    students_temperature = settings.temperature if settings.form == "paper" else 1.0

    def compute(context: TermContext) -> Tensor:
        softened = target.compute(context, settings.temperature)
        return kl(context.logits(student), softened, students_temperature)

    needs = Needs(outputs={student: (LOGITS,)}, labels=target.labels)
    return Part(terms=(Term("tf-kd-reg", compute, needs, settings.weight),), task_weight=0.9)


METHOD = Method(CARD, Settings, build)
