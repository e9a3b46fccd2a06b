"""Distilling the Knowledge in a Neural Network, Hinton, Vinyals, Dean 2015 (arXiv 1503.02531), section 2.

    L = task_weight CE(y, z_s) + weight T^2 KL(p_t || softmax(z_s / T)),   p_t = mean_k softmax(z_k / T)

over the K teachers (K = 1 is the usual case).
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from edgekd.core.config import Config
from edgekd.distill.card import Card
from edgekd.distill.context import TermContext
from edgekd.distill.kernels.respond import kl
from edgekd.distill.method import Method, Part, Roster
from edgekd.distill.program import LOGITS, Needs, Term
from edgekd.distill.targets import Target, mean_of
from edgekd.distill.weights import Weight

CARD = Card(
    name="kd",
    title="Knowledge distillation",
    paper="Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network. arXiv 1503.02531, 2015",
    equation="weight T^2 KL(p_t || p_s) at temperature T, sum over classes, mean over the batch",
    catalogue_id="kd",
    knowledge="response",
    scheme="offline",
    needs="one or more teachers with the student's classes",
    defaults="T = 4, weight 0.9, task weight 0.1, as in Tian et al. 2020 (CRD); the paper fixes none",
    cost="one forward pass of every teacher (none where the teachers' answers are on file)",
    deviations=(
        "the surveys print the joint loss without T^2; the paper has it, and so do we",
        "torch's KLDivLoss default 'mean' (official Tf-KD and TAKD code) is C times smaller than this",
    ),
)


class Settings(Config):
    """temperature: T. weight: of the distillation term."""

    temperature: float = Field(4.0, gt=0)
    weight: float = Field(0.9, ge=0)


def kd_term(student: str, target: Target, temperature: float, weight: Weight, name: str = "kd") -> Term:
    """T^2 KL(target || student) as a term."""

    def compute(context: TermContext) -> Tensor:
        return kl(context.logits(student), target.compute(context, temperature), temperature)

    needs = Needs(outputs={student: (LOGITS,), **target.outputs}, labels=target.labels)
    return Term(name, compute, needs, weight)


def build(settings: Settings, roster: Roster) -> Part:
    target = mean_of(roster.teachers)
    term = kd_term(roster.student, target, settings.temperature, settings.weight)
    return Part(terms=(term,), task_weight=0.1)


METHOD = Method(CARD, Settings, build)
