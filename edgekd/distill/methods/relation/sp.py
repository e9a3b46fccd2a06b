"""Similarity-Preserving Knowledge Distillation, Tung & Mori, ICCV 2019 (arXiv 1907.09682), section 3.

    G = F F^T (F: one flattened row per sample),   L = CE + weight sum_taps 1/b^2 ||n(G_t) - n(G_s)||_F^2

n divides every row by its L2 norm.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from edgekd.core.config import Config
from edgekd.distill.card import Card
from edgekd.distill.kernels.regress import mean_squared_error
from edgekd.distill.kernels.relate import gram, unit_rows
from edgekd.distill.method import Method, Part, Roster
from edgekd.distill.relations import last_stage_pairs, relation_term

CARD = Card(
    name="sp",
    title="Similarity-preserving distillation",
    paper="Tung, Mori: Similarity-Preserving Knowledge Distillation. ICCV 2019, arXiv 1907.09682",
    equation="weight sum_taps mean_{ij} (n(F_s F_s^T) - n(F_t F_t^T))_ij^2, n: rows of L2 norm 1",
    catalogue_id="sp",
    knowledge="relation",
    scheme="offline",
    needs="one teacher; a tap in both (any shapes); batches of two or more",
    defaults=(
        "weight 3000: gamma of the paper, whose 1/b^2 is this mean; the last stage, as in its experiments"
    ),
    cost=(
        "teacher's forward pass; b^2 d_s + b^2 d_t multiplications, d the size of the feature map; a few b "
        "x b matrices"
    ),
    deviations=(
        "torchdistill's SP divides rows by their L1 norm, which is not the paper's and changes the weight",
    ),
)


def similarity_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the row-normalized Gram matrices; [B, d_s], [B, d_t]."""
    return mean_squared_error(unit_rows(gram(student)), unit_rows(gram(teacher)))


class Settings(Config):
    """taps: student's tap -> teacher's; by default the last stage. weight: gamma."""

    taps: dict[str, str] | None = None
    weight: float = Field(3000.0, ge=0)


def build(settings: Settings, roster: Roster) -> Part:
    pairs = last_stage_pairs(roster, settings.taps)
    return Part(terms=(relation_term("sp", roster, pairs, similarity_error, settings.weight),))


METHOD = Method(CARD, Settings, build)
