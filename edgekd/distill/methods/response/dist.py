"""Knowledge Distillation from A Stronger Teacher, Huang et al., NeurIPS 2022 (arXiv 2205.10536), equation 10.

    L = CE(y, z_s) + weight T^2 (beta L_inter + gamma L_intra)
    L_inter = 1 - mean_b r(p_s[b], p_t[b]),   L_intra = 1 - mean_c r(p_s[:, c], p_t[:, c])

r is the Pearson correlation, p the probabilities [B, C] at temperature T: relations between the classes of a
sample, and within a class between the samples of the batch.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from edgekd.core.config import Config
from edgekd.distill.card import Card
from edgekd.distill.context import TermContext
from edgekd.distill.kernels.respond import correlation_distance
from edgekd.distill.method import Method, Part, Roster
from edgekd.distill.program import LOGITS, Needs, Term
from edgekd.distill.targets import mean_of

CARD = Card(
    name="dist",
    title="DIST: correlations instead of an exact match",
    paper=(
        "Huang, You, Wang, Qian, Xu: Knowledge Distillation from A Stronger Teacher. NeurIPS 2022, "
        "arXiv 2205.10536"
    ),
    equation=(
        "weight T^2 (beta (1 - r of the classes, mean over the batch) + gamma (1 - r of the samples, mean "
        "over the classes)), r the Pearson correlation of softened probabilities"
    ),
    catalogue_id="dist",
    knowledge="response",
    scheme="offline",
    needs="one teacher with the student's classes; a batch of two or more",
    defaults=(
        "beta 1, gamma 1, weight 2, T = 1, task weight 1: the authors' ImageNet settings (loss weight 2 on a "
        "loss with beta = gamma = 1). Their CIFAR-100 settings are the same with T = 4, so T^2 = 16 more"
    ),
    cost="one forward pass of the teacher (none where its answers are on file)",
    deviations=(
        "T^2 is in the authors' code",
        "a norm below 1e-8 counts as 1e-8; the code adds 1e-8 to the product of both norms, which damps the "
        "correlation of classes that hardly occur",
        "on several processes the samples of all are compared, as on one; the code compares those of each",
    ),
)


def _term(name: str, roster: Roster, temperature: float, dim: int, weight: float) -> Term:
    student, target = roster.student, mean_of((roster.teacher,))

    def compute(context: TermContext) -> Tensor:
        softened = (context.logits(student) / temperature).softmax(dim=1)
        return correlation_distance(softened, target.compute(context, temperature), dim) * temperature**2

    over_samples = dim == 0
    needs = Needs(
        outputs={student: (LOGITS,), **target.outputs},
        whole_batch=over_samples,
        least_batch=2 if over_samples else 1,
    )
    return Term(name, compute, needs, weight)


class Settings(Config):
    """beta: between classes. gamma: within a class. weight: a common factor of both. temperature: T."""

    temperature: float = Field(1.0, gt=0)
    beta: float = Field(1.0, ge=0)
    gamma: float = Field(1.0, ge=0)
    weight: float = Field(2.0, ge=0)


def build(settings: Settings, roster: Roster) -> Part:
    temperature, weight = settings.temperature, settings.weight
    inter = _term("dist-inter", roster, temperature, 1, weight * settings.beta)
    intra = _term("dist-intra", roster, temperature, 0, weight * settings.gamma)
    return Part(terms=(inter, intra))


METHOD = Method(CARD, Settings, build)
