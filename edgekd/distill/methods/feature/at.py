"""Paying More Attention to Attention, Zagoruyko & Komodakis, ICLR 2017 (arXiv 1612.03928), section 3.1.

    Q = vec(sum_c |f_c|^p),   L = CE + weight sum_taps d(Q_s / ||Q_s||, Q_t / ||Q_t||),   p = 2

d is the mean of the squared differences over batch and positions (the authors' code), or, with
`form: paper`, the norm ||.||_2 of the difference, divided by 2 and by the number of positions (equation 2).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from edgekd.core.config import Config
from edgekd.core.errors import UsageError
from edgekd.distill.card import Card
from edgekd.distill.context import TermContext
from edgekd.distill.kernels.regress import mean_squared_error, pooled_to_smaller
from edgekd.distill.method import Method, Part, Roster
from edgekd.distill.program import Needs, Term

CARD = Card(
    name="at",
    title="Attention transfer (activation-based)",
    paper="Zagoruyko, Komodakis: Paying More Attention to Attention. ICLR 2017, arXiv 1612.03928",
    equation="weight sum_taps mean_{b,hw} (Q_s/||Q_s|| - Q_t/||Q_t||)^2, Q = sum_c |f_c|^p",
    catalogue_id="at",
    knowledge="feature",
    scheme="offline",
    needs="one teacher; feature-map taps in both (channels and sizes may differ)",
    defaults=(
        "p = 2, weight 1000, task weight 1: beta of the authors' code, whose maps are 8x8 to 56x56; the mean "
        "over positions makes the term grow as maps shrink, so for maps below 8x8 lower the weight"
    ),
    cost="teacher's forward pass; no module of its own",
    deviations=(
        "the paper's norm is not squared and has the factor 1/2, the authors' code squares and averages: "
        "the code by default, `form: paper` for the paper",
        "maps of different size: the larger is average-pooled (the authors' networks have equal sizes)",
    ),
)


def attention(features: Tensor, power: float) -> Tensor:
    """Normalized attention map [B, H*W] of features [B, C, H, W]; each row has L2 norm 1."""
    return F.normalize(features.abs().pow(power).mean(dim=1).flatten(1), dim=1)


def attention_distance(
    student: Tensor, teacher: Tensor, power: float, form: Literal["code", "paper"]
) -> Tensor:
    """Distance of the attention maps of two feature maps [B, C, H, W]; channels and sizes may differ.

    Raises `UsageError` for vectors, which have no positions to attend to.
    """
    if student.dim() != 4 or teacher.dim() != 4:
        raise UsageError("attention maps need taps with positions, not vectors", fix="name `stageN` taps")
    student, teacher = pooled_to_smaller(student, teacher)
    maps = attention(student, power), attention(teacher, power)
    if form == "code":
        return mean_squared_error(*maps)
    num_positions = maps[0].shape[1]
    norms: Tensor = torch.linalg.vector_norm(maps[0] - maps[1], dim=1)
    return norms.mean() / (2 * num_positions)


class Settings(Config):
    """taps: student's tap -> teacher's; by default every stage. power: p, of the activations.

    form: `code` squares the difference of the maps, `paper` takes its norm over twice the positions.
    """

    taps: dict[str, str] | None = None
    power: float = Field(2.0, ge=1)
    form: Literal["code", "paper"] = "code"
    weight: float = Field(1000.0, ge=0)


def build(settings: Settings, roster: Roster) -> Part:
    student, teacher, pairs = roster.student, roster.teacher, roster.pairs(settings.taps)

    def compute(context: TermContext) -> Tensor:
        features = [(context.tap(student, mine), context.tap(teacher, theirs)) for mine, theirs in pairs]
        distances = [attention_distance(s, t, settings.power, settings.form) for s, t in features]
        return sum(distances[1:], start=distances[0])

    mine, theirs = zip(*pairs, strict=True)
    return Part(
        terms=(Term("at", compute, Needs(outputs={student: mine, teacher: theirs}), settings.weight),)
    )


METHOD = Method(CARD, Settings, build)
