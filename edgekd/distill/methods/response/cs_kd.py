"""Regularizing Class-wise Predictions via Self-knowledge Distillation, Yun et al., CVPR 2020, equation 2.

    L = CE(y, z(x)) + weight T^2 KL(sg softmax(z(x') / T) || softmax(z(x) / T))

x' is another image of the class of x; sg: no gradient reaches the target.
"""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from edgekd.core.config import Config
from edgekd.data.sampling import SAME_CLASS
from edgekd.distill.card import Card
from edgekd.distill.context import TermContext
from edgekd.distill.kernels.respond import kl
from edgekd.distill.method import Method, Part, Roster
from edgekd.distill.program import LOGITS, Needs, Term

CARD = Card(
    name="cs-kd",
    title="Class-wise self-distillation",
    paper=(
        "Yun, Park, Lee, Shin: Regularizing Class-wise Predictions via Self-knowledge Distillation. "
        "CVPR 2020, arXiv 2003.13964"
    ),
    equation="weight T^2 KL(sg p(x') || p(x)) at temperature T, sum over classes, mean over the batch",
    catalogue_id="cs-kd",
    knowledge="response",
    scheme="self",
    needs="labels (for another image of the same class); no teacher",
    defaults="T = 4, weight 1, task weight 1: the authors' code, which has our convention",
    cost="a second forward pass of the student",
    deviations=(
        "the partner is always another image; in the authors' code it is by chance the same one now and then",
        "the partners pass the network in training mode, as in the authors' code, so they update its batch "
        "statistics",
        "the term may rise: untrained predictions agree because they say nothing",
    ),
    num_teachers=0,
    may_rise=("cs-kd",),
)


class Settings(Config):
    """temperature: T. weight: lambda of the paper."""

    temperature: float = Field(4.0, gt=0)
    weight: float = Field(1.0, ge=0)


def build(settings: Settings, roster: Roster) -> Part:
    student, temperature = roster.student, settings.temperature

    def compute(context: TermContext) -> Tensor:
        partners = context.logits(student, SAME_CLASS).detach()
        return kl(context.logits(student), F.softmax(partners / temperature, dim=1), temperature)

    needs = Needs(outputs={student: (LOGITS,)}, views=("x", SAME_CLASS))
    return Part(terms=(Term("cs-kd", compute, needs, settings.weight),))


METHOD = Method(CARD, Settings, build)
