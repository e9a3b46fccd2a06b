"""Correlation Congruence for Knowledge Distillation, Peng et al., ICCV 2019 (arXiv 1904.01802), section 3.

    K_ij = sum_{p <= P} exp(-2 gamma) (2 gamma)^p / p! cos(e_i, e_j)^p
    L = CE + weight / b^2 ||K_t - K_s||_F^2

K is the Gaussian kernel of unit embeddings, expanded to order P. The paper's whole loss is
alpha CE + (1 - alpha) KD + beta L_CC: list `kd` beside `cckd` for it.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from edgekd.core.config import Config
from edgekd.distill.card import Card
from edgekd.distill.kernels.regress import mean_squared_error
from edgekd.distill.kernels.relate import rbf_taylor
from edgekd.distill.method import Method, Part, Roster
from edgekd.distill.relations import embedding_pairs, relation_term

CARD = Card(
    name="cckd",
    title="Correlation congruence",
    paper="Peng et al.: Correlation Congruence for Knowledge Distillation. ICCV 2019, arXiv 1904.01802",
    equation="weight mean_{ij} (K_s - K_t)_ij^2, K = Taylor polynomial of the RBF kernel of unit embeddings",
    catalogue_id="cckd",
    knowledge="relation",
    scheme="offline",
    needs=(
        "one teacher; embeddings (sizes may differ); batches of two or more, class-uniform (it asks for "
        "them); for the paper's whole loss list `kd` beside it"
    ),
    defaults=(
        "gamma 0.4 and order 2 of the paper; weight 100 of the Knowledge-Distillation-Zoo, whose mean over "
        "b^2 this is (the paper's own beta was not at hand)"
    ),
    cost="teacher's forward pass; b^2 d multiplications; a few b x b matrices",
    deviations=(
        "the paper adds KD: here a method of its own, `method: [kd, cckd]`",
        "RepDistiller's `CC` is another formula (products of absolute differences of neighboring samples); "
        "its weight 0.02 means nothing here",
        "torchdistill's CCKD neither squares nor averages the difference",
    ),
)


class Settings(Config):
    """taps: student's tap -> teacher's; by default the embeddings. gamma, order: of the kernel."""

    taps: dict[str, str] | None = None
    gamma: float = Field(0.4, gt=0)
    order: int = Field(2, ge=1)
    weight: float = Field(100.0, ge=0)


def correlation_error(student: Tensor, teacher: Tensor, gamma: float, order: int) -> Tensor:
    """Mean squared difference of the expanded kernels; [B, d_s], [B, d_t]."""
    return mean_squared_error(rbf_taylor(student, gamma, order), rbf_taylor(teacher, gamma, order))


def build(settings: Settings, roster: Roster) -> Part:
    def compare(student: Tensor, teacher: Tensor) -> Tensor:
        return correlation_error(student, teacher, settings.gamma, settings.order)

    pairs = embedding_pairs(roster, settings.taps)
    term = relation_term("cckd", roster, pairs, compare, settings.weight)
    return Part(terms=(term,), sampler="class_uniform")


METHOD = Method(CARD, Settings, build)
