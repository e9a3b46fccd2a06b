"""Do Deep Nets Really Need to be Deep?, Ba & Caruana, NIPS 2014 (arXiv 1312.6184), section 2.3, equation 1.

    L = weight 1/2 sum_c ((z_s,c - z_t,c) / s_c)^2

s_c is the standard deviation of the teacher's logit c over all images seen so far. No labels.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from edgekd.core.config import Config
from edgekd.distill.card import Card
from edgekd.distill.context import Memory, TermContext
from edgekd.distill.kernels.respond import squared_error
from edgekd.distill.method import Method, Part, Roster
from edgekd.distill.program import LOGITS, Needs, Term

CARD = Card(
    name="logit-regression",
    title="Regression on the teacher's logits",
    paper="Ba, Caruana: Do Deep Nets Really Need to be Deep? NIPS 2014, arXiv 1312.6184",
    equation="weight 1/2 sum_c ((z_s,c - z_t,c) / s_c)^2, mean over the batch; s_c: teacher's deviation",
    catalogue_id="logit-regression",
    knowledge="response",
    scheme="offline",
    needs="one teacher with the student's classes",
    defaults="weight 1, task weight 0 (the paper's mimic nets see no labels), logits standardized",
    cost="one forward pass of the teacher (none where its answers are on file); keeps 2 C + 1 numbers",
    deviations=(
        "the paper's student outputs standardized logits; ours outputs the teacher's own and is compared in "
        "units of their deviations: the same error (the means cancel), and the deployed network answers as "
        "the teacher does instead of with shifted and stretched logits",
        "the deviations are those of all the teacher's outputs seen so far, counted exactly, not from a pass "
        "over the data before the training; over the first batches they still move",
        "AberHu's `logits` has neither the factor 1/2 nor standardization and averages over classes",
    ),
)

_CONSTANT = 1e-6
"""A logit with a smaller deviation is taken as constant and compared as it is."""


def seen_deviation(memory: Memory, logits: Tensor) -> Tensor:
    """Standard deviation [C] of all logits [B, C] that `memory` was ever given with, these included.

    Counted exactly, in float64, by merging moments (Chan, Golub, LeVeque 1979) and divided by the count.
    `memory` keeps count [], mean [C] and variance [C]. Constant logits have deviation 1.
    """
    new = logits.detach().double()
    nothing = torch.zeros_like(new[0])
    count = memory.get("count", nothing.sum()).to(new) + len(new)
    mean, variance = memory.get("mean", nothing).to(new), memory.get("variance", nothing).to(new)
    share, gap = len(new) / count, new.mean(dim=0) - mean
    within = (1 - share) * variance + share * new.var(dim=0, correction=0)
    variance = within + share * (1 - share) * gap**2
    memory.update(count=count, mean=mean + share * gap, variance=variance)
    deviation = variance.sqrt()
    return torch.where(deviation > _CONSTANT, deviation, 1.0).to(logits)


class Settings(Config):
    """standardize: compare in units of the teacher's deviations, else as they are. weight: of the term."""

    standardize: bool = True
    weight: float = Field(1.0, ge=0)


def build(settings: Settings, roster: Roster) -> Part:
    student, teacher = roster.student, roster.teacher

    def compute(context: TermContext) -> Tensor:
        logits, target = context.logits(student), context.logits(teacher).detach()
        unit = seen_deviation(context.memory, target) if settings.standardize else torch.ones_like(target[0])
        return squared_error(logits / unit, target / unit)

    needs = Needs(outputs={student: (LOGITS,), teacher: (LOGITS,)}, whole_batch=settings.standardize)
    return Part(terms=(Term("logit-regression", compute, needs, settings.weight),), task_weight=0.0)


METHOD = Method(CARD, Settings, build)
