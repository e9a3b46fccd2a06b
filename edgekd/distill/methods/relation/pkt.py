"""Learning Deep Representations with Probabilistic Knowledge Transfer, Passalis & Tefas, ECCV 2018.

    K_ij = (cos(e_i, e_j) + 1) / 2,   P_ij = K_ij / sum_{k != i} K_ik
    L = CE + weight mean_i KL(P_t,i || P_s,i)

(arXiv 1803.10837, section 3; extended in IEEE TNNLS 2020.) KL: sum over j.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from edgekd.core.config import Config
from edgekd.distill.card import Card
from edgekd.distill.kernels.relate import cosine_kernel, row_kl
from edgekd.distill.method import Method, Part, Roster
from edgekd.distill.relations import embedding_pairs, relation_term

CARD = Card(
    name="pkt",
    title="Probabilistic knowledge transfer",
    paper="Passalis, Tefas: Learning Deep Representations with Probabilistic Knowledge Transfer. ECCV 2018",
    equation="weight mean_i sum_{j != i} P_t,ij log(P_t,ij / P_s,ij), P: rows of (cos + 1) / 2 that sum to 1",
    catalogue_id="pkt",
    knowledge="relation",
    scheme="offline",
    needs="one teacher; embeddings (sizes may differ); batches of three or more; no labels",
    defaults=(
        "weight 470: Tian et al. 2020 (CRD) use 30000 with the code's mean over b^2 at b = 64, which is b "
        "times smaller than this mean over rows"
    ),
    cost="teacher's forward pass; b^2 d multiplications; a few b x b matrices",
    deviations=(
        "the paper's sums leave the sample itself out, the authors' code keeps it (a 1 in every row): the "
        "paper by default, `diagonal: true` for the code",
        "the code averages over all b^2 entries; the paper sums, here it is the mean over the rows' KL",
        "the paper trains on this term alone (task weight 0); beside cross-entropy it is used as in CRD",
    ),
)


class Settings(Config):
    """taps: student's tap -> teacher's; by default the embeddings. diagonal: keep a sample's own entry."""

    taps: dict[str, str] | None = None
    diagonal: bool = False
    weight: float = Field(470.0, ge=0)


def probability_divergence(student: Tensor, teacher: Tensor, *, diagonal: bool) -> Tensor:
    """Mean over the samples of KL(P_t || P_s); [B, d_s], [B, d_t]."""
    return row_kl(cosine_kernel(student), cosine_kernel(teacher), diagonal=diagonal)


def build(settings: Settings, roster: Roster) -> Part:
    def compare(student: Tensor, teacher: Tensor) -> Tensor:
        return probability_divergence(student, teacher, diagonal=settings.diagonal)

    pairs = embedding_pairs(roster, settings.taps)
    # Of two samples each is the other's only neighbor, with probability 1 in any network.
    least = 2 if settings.diagonal else 3
    return Part(terms=(relation_term("pkt", roster, pairs, compare, settings.weight, least=least),))


METHOD = Method(CARD, Settings, build)
