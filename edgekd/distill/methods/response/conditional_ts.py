"""Conditional Teacher-Student Learning, Meng et al., ICASSP 2019 (arXiv 1904.12399), equations 4 and 5.

    L = -sum_c q_c log p_s,c,   q = p_t where argmax z_t is the label, else one-hot(label)

The labels are in the loss already, so no cross-entropy stands beside it.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from edgekd.core.config import Config
from edgekd.distill.card import Card
from edgekd.distill.context import TermContext
from edgekd.distill.kernels.respond import soft_cross_entropy
from edgekd.distill.method import Method, Part, Roster
from edgekd.distill.program import LOGITS, Needs, Term
from edgekd.distill.targets import right_or_label

CARD = Card(
    name="conditional-ts",
    title="Conditional teacher-student learning",
    paper="Meng, Li, Zhao, Gong: Conditional Teacher-Student Learning. ICASSP 2019, arXiv 1904.12399",
    equation=(
        "weight H(q, p_s), q = p_t where the teacher is right, else the label; sum over classes, mean over "
        "the batch"
    ),
    catalogue_id="conditional-ts",
    knowledge="response",
    scheme="offline",
    needs="one teacher with the student's classes; labels",
    defaults="T = 1, weight 1, task weight 0, as in the paper (no trade-off weight is its point)",
    cost="one forward pass of the teacher (none where its answers are on file)",
    deviations=(
        "the paper sums over the frames of an utterance, this is the mean over the batch",
        "beside other methods the task weight stays 0 (the smallest of the parts): the labels come in here",
    ),
    zero_at_match=False,
)


class Settings(Config):
    """weight: of the term."""

    weight: float = Field(1.0, ge=0)


def build(settings: Settings, roster: Roster) -> Part:
    student, target = roster.student, right_or_label(roster.teacher)

    def compute(context: TermContext) -> Tensor:
        return soft_cross_entropy(context.logits(student), target.compute(context, 1.0))

    needs = Needs(outputs={student: (LOGITS,), **target.outputs}, labels=target.labels)
    return Part(terms=(Term("conditional-ts", compute, needs, settings.weight),), task_weight=0.0)


METHOD = Method(CARD, Settings, build)
