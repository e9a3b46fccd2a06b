"""Relational Knowledge Distillation, distances, Park et al., CVPR 2019 (arXiv 1904.05068), section 3.2.1.

    psi(i, j) = ||e_i - e_j|| / mu,   L = CE + weight mean_{ij} Huber(psi_s - psi_t)

mu is the mean distance of the batch's pairs.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from edgekd.core.config import Config
from edgekd.distill.card import Card
from edgekd.distill.kernels.relate import distances, huber, over_mean
from edgekd.distill.method import Method, Part, Roster
from edgekd.distill.relations import embedding_pairs, relation_term

CARD = Card(
    name="rkd-d",
    title="Relational distillation, distance-wise",
    paper="Park, Kim, Lu, Cho: Relational Knowledge Distillation. CVPR 2019, arXiv 1904.05068",
    equation="weight mean_{ij} Huber(||e_i - e_j||_s / mu_s - ||e_i - e_j||_t / mu_t), mu: mean over i != j",
    catalogue_id="rkd-d",
    knowledge="relation",
    scheme="offline",
    needs="one teacher; embeddings (sizes may differ); batches of two or more",
    defaults="weight 25: the paper's lambda with the authors' mean over all b^2 entries, diagonal included",
    cost="teacher's forward pass; b^2 d multiplications; a few b x b matrices",
    deviations=(
        "the paper writes a sum over pairs, the authors' code takes the mean, and so do we",
        "the authors leave out of mu every distance of 0, we the diagonal (they clamp the others above 0)",
        "mmrazor's RKD normalizes the embeddings first by default",
    ),
)


def distance_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean Huber error of the distances over their mean; [B, d_s], [B, d_t], B > 1."""
    return huber(over_mean(distances(student)), over_mean(distances(teacher)))


class Settings(Config):
    """taps: student's tap -> teacher's; by default the embeddings. weight: lambda."""

    taps: dict[str, str] | None = None
    weight: float = Field(25.0, ge=0)


def build(settings: Settings, roster: Roster) -> Part:
    pairs = embedding_pairs(roster, settings.taps)
    return Part(terms=(relation_term("rkd-d", roster, pairs, distance_error, settings.weight),))


METHOD = Method(CARD, Settings, build)
