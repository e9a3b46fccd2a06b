"""Knowledge Distillation via Instance Relationship Graph, Liu et al., CVPR 2019, section 3 (one-to-one mode).

vertices          mean (z_s - z_t)^2 of the logits
edges             mean over taps of mean_{ij} (A_s - A_t)_ij^2,   A_ij = ||f_i - f_j||^2 / max
transformation    mean_i (d_s - d_t)_i^2,   d_i = ||f_i^(l+1) - f_i^(l)||^2 / max_i   between two stages
L = CE + weight (0.1 vertices + 5 edges + 5 transformation)
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from edgekd.core.config import Config
from edgekd.distill.card import Card
from edgekd.distill.context import TermContext
from edgekd.distill.kernels.regress import mean_squared_error, pooled_to_smaller
from edgekd.distill.kernels.relate import over_max, samples, squared_distances
from edgekd.distill.method import Method, Part, Roster, TapPairs
from edgekd.distill.program import LOGITS, Needs, Term
from edgekd.distill.relations import EMBEDDING, pair_needs, relation_term, require_batch

CARD = Card(
    name="irg",
    title="Instance relationship graph",
    paper="Liu et al.: Knowledge Distillation via Instance Relationship Graph. CVPR 2019",
    equation="weight (0.1 mean (z_s - z_t)^2 + 5 mean (A_s - A_t)^2 + 5 mean (d_s - d_t)^2); A, d over max",
    catalogue_id="irg",
    knowledge="mixed",
    scheme="offline",
    needs="one teacher with the student's classes; feature-map taps in both; batches of two or more",
    defaults=(
        "the last two stages and the embeddings; weights 0.1, 5, 5 of the Knowledge-Distillation-Zoo, whose "
        "means these are (the authors' code is for Caffe); at 0.1 the vertices may fall slowly"
    ),
    cost=(
        "teacher's forward pass; b^2 d multiplications per tap, d the size of the feature map; a few b x b "
        "matrices"
    ),
    deviations=(
        "the paper sums squared errors; here every part is a mean over its entries",
        "transformation: the larger map is average-pooled, and where a stage has more channels than the one "
        "before, groups of neighbors are averaged (pairs, as in the Knowledge-Distillation-Zoo, if doubled)",
    ),
    may_rise=("irg-vertices",),
    kinds={"irg-vertices": "response", "irg-edges": "relation", "irg-transformation": "relation"},
)


def edges(rows: Tensor) -> Tensor:
    """Squared distances of the samples over the largest; [B, d] -> [B, B]."""
    return over_max(squared_distances(rows))


def edge_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of the edges; [B, d_s], [B, d_t]."""
    return mean_squared_error(edges(student), edges(teacher))


def transformation(first: Tensor, second: Tensor) -> Tensor:
    """How far each sample moves from one stage to the next, over the farthest; [B, C, H, W] twice -> [B]."""
    first, second = pooled_to_smaller(first, second)
    num_channels = min(first.shape[1], second.shape[1])
    moved = _fewer_channels(second, num_channels) - _fewer_channels(first, num_channels)
    return over_max(moved.pow(2).sum(dim=(1, 2)))


def _fewer_channels(maps: Tensor, count: int) -> Tensor:
    """[B, C, H, W] -> [B, H*W, count]: means of neighboring channels."""
    return F.adaptive_avg_pool1d(maps.flatten(2).mT, count)


class Settings(Config):
    """taps: feature maps, student's -> teacher's, in order; by default the last two stages.

    The embeddings give edges too where both networks have the tap. vertices: weight of the logits. edges: of
    the distances between samples. transformation: of those between stages. weight: of the three together.
    """

    taps: dict[str, str] | None = None
    vertices: float = Field(0.1, ge=0)
    edges: float = Field(5.0, ge=0)
    transformation: float = Field(5.0, ge=0)
    weight: float = Field(1.0, ge=0)


def _vertex_term(roster: Roster, weight: float) -> Term:
    def compute(context: TermContext) -> Tensor:
        return mean_squared_error(context.logits(roster.student), context.logits(roster.teacher).detach())

    needs = Needs(outputs={roster.student: (LOGITS,), roster.teacher: (LOGITS,)})
    return Term("irg-vertices", compute, needs, weight)


def _edge_term(roster: Roster, stages: TapPairs, weight: float) -> Term:
    both = EMBEDDING in roster.student_taps and EMBEDDING in roster.teacher_taps.get(roster.teacher, ())
    pairs = (*stages, (EMBEDDING, EMBEDDING)) if both else stages

    def compare(student: Tensor, teacher: Tensor) -> Tensor:
        return edge_error(student, teacher) / len(pairs)

    return relation_term("irg-edges", roster, pairs, compare, weight)


def _transformation_term(roster: Roster, pairs: TapPairs, weight: float) -> Term:
    student, teacher = roster.student, roster.teacher

    def compute(context: TermContext) -> Tensor:
        ours = [context.tap(student, mine) for mine, _ in pairs]
        others = [context.tap(teacher, theirs).detach() for _, theirs in pairs]
        require_batch("irg-transformation", len(samples(ours[0])), 2)
        moves = zip(pairwise(ours), pairwise(others), strict=True)
        errors = [
            mean_squared_error(transformation(*mine), transformation(*theirs)) for mine, theirs in moves
        ]
        return sum(errors[1:], start=errors[0]) / len(errors)

    needs = pair_needs(roster, pairs, whole_batch=True, least_batch=2)
    return Term("irg-transformation", compute, needs, weight)


def build(settings: Settings, roster: Roster) -> Part:
    pairs = roster.pairs(settings.taps)
    pairs = pairs if settings.taps else pairs[-2:]
    terms = [
        _vertex_term(roster, settings.weight * settings.vertices),
        _edge_term(roster, pairs, settings.weight * settings.edges),
    ]
    if len(pairs) > 1:
        weight = settings.weight * settings.transformation
        terms.append(_transformation_term(roster, pairs, weight))
    return Part(terms=tuple(terms))


METHOD = Method(CARD, Settings, build)
