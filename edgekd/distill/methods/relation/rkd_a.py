"""Relational Knowledge Distillation, angles, Park et al., CVPR 2019 (arXiv 1904.05068), section 3.2.2.

    psi(i, j, k) = <n(e_j - e_i), n(e_k - e_i)>,   L = CE + weight mean_{ijk} Huber(psi_s - psi_t)

n divides by the L2 norm: psi is the cosine of the angle at sample i.
"""

from __future__ import annotations

from pydantic import Field

from edgekd.core.config import Config
from edgekd.distill.card import Card
from edgekd.distill.kernels.angles import angle_error
from edgekd.distill.method import Method, Part, Roster
from edgekd.distill.relations import embedding_pairs, relation_term

CARD = Card(
    name="rkd-a",
    title="Relational distillation, angle-wise",
    paper="Park, Kim, Lu, Cho: Relational Knowledge Distillation. CVPR 2019, arXiv 1904.05068",
    equation="weight mean_{ijk} Huber(psi_s - psi_t), psi = cos of the angle of samples j, k seen from i",
    catalogue_id="rkd-a",
    knowledge="relation",
    scheme="offline",
    needs="one teacher; embeddings (sizes may differ); batches of three or more",
    defaults="weight 50: the paper's lambda with the authors' mean over all b^3 entries, degenerate ones too",
    cost=(
        "teacher's forward pass; b^3 min(b, d) multiplications, O(b^2) memory: 50 ms and 4 MB at b = 128, d"
        " = 64 (one core), 241 ms and 4 MB at b = 256; the plain form needs 81 ms, 88 MB and 523 ms, 354 MB"
    ),
    deviations=(
        "the paper writes a sum over triplets, the authors' code takes the mean, and so do we",
        "mmrazor's RKD normalizes the embeddings first by default",
    ),
)


class Settings(Config):
    """taps: student's tap -> teacher's; by default the embeddings. weight: lambda."""

    taps: dict[str, str] | None = None
    weight: float = Field(50.0, ge=0)


def build(settings: Settings, roster: Roster) -> Part:
    pairs = embedding_pairs(roster, settings.taps)
    return Part(terms=(relation_term("rkd-a", roster, pairs, angle_error, settings.weight, least=3),))


METHOD = Method(CARD, Settings, build)
