"""Variational Information Distillation for Knowledge Transfer, Ahn et al., CVPR 2019 (arXiv 1904.05835).

    L = CE + weight sum_taps mean_{b,c,hw} [ (t - mu(s))^2 / (2 sigma_c^2) + log sigma_c ]
    sigma_c^2 = softplus(alpha_c) + eps     (equations 4 to 6, without the constant log(2 pi) / 2)

mu is a stack of 1x1 convolutions and alpha one number per channel of the teacher; both are learned.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from edgekd.core.config import Config
from edgekd.distill.adapters import Point
from edgekd.distill.card import Card
from edgekd.distill.context import TermContext
from edgekd.distill.kernels.regress import pooled_to_smaller
from edgekd.distill.method import Method, Part, Roster
from edgekd.distill.program import ModuleBuilder, Needs, Shapes, Term

CARD = Card(
    name="vid",
    title="Variational information distillation",
    paper=(
        "Ahn et al.: Variational Information Distillation for Knowledge Transfer. CVPR 2019, arXiv 1904.05835"
    ),
    equation="weight sum_taps mean [(t - mu(s))^2 / (2 sigma_c^2) + log sigma_c], sigma_c^2 = softplus + eps",
    catalogue_id="vid",
    knowledge="feature",
    scheme="offline",
    needs="one teacher; feature taps in both (channels and sizes may differ)",
    defaults=(
        "weight 1 on the mean over elements, first variance 5, eps 1e-5, three 1x1 convolutions of the "
        "teacher's channels: RepDistiller after the authors' code; the paper sums over elements"
    ),
    cost="teacher's forward pass; three 1x1 convolutions per stage, never deployed",
    deviations=(
        "means over elements instead of sums, as in RepDistiller; the constant log(2 pi) / 2 is left out",
        "the paper also transfers the logits, through a linear mu; `taps` may name them, with the same stack",
        "maps of different size: the larger is average-pooled, the student's before mu",
        "the value is a negative log-density and may be negative; a fall of the first steps is slow because "
        "log sigma, which starts at 0.8, only moves as fast as alpha learns",
    ),
    zero_at_match=False,
    may_rise=("vid",),
)


def gaussian_nll(mean: Tensor, variance: Tensor, target: Tensor) -> Tensor:
    """Mean over batch and elements of (target - mean)^2 / (2 variance) + log(variance) / 2.

    mean, target: [B, C, H, W]; variance: [C], positive.
    """
    per_channel = variance[:, None, None]
    return 0.5 * ((target - mean).square() / per_channel + per_channel.log()).mean()


class Variational(nn.Module):
    """q(t | s): `mean` [B, C_s, H, W] -> [B, C_t, H, W] and `variance()` [C_t]."""

    def __init__(self, in_channels: int, out_channels: int, first_variance: float, eps: float) -> None:
        super().__init__()
        widths = ((in_channels, out_channels), (out_channels, out_channels), (out_channels, out_channels))
        first, second, third = (nn.Conv2d(given, wanted, 1, bias=False) for given, wanted in widths)
        self.mean = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)
        # The inverse of `variance()`; written so that a large variance does not overflow.
        wanted = first_variance - eps
        start = wanted + math.log(-math.expm1(-wanted))
        self.alpha = nn.Parameter(torch.full((out_channels,), start))
        self.eps = eps

    def variance(self) -> Tensor:
        return F.softplus(self.alpha) + self.eps

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """`gaussian_nll` of `teacher` given `student`; [B, C, H, W] or [B, C] each."""
        student, teacher = pooled_to_smaller(student, teacher)
        return gaussian_nll(self.mean(student), self.variance(), teacher)


class Settings(Config):
    """taps: student's tap -> teacher's; by default every stage. variance: at the start, sigma^2.

    eps: the smallest variance.
    """

    taps: dict[str, str] | None = None
    variance: float = Field(5.0, gt=1e-4)
    eps: float = Field(1e-5, gt=0, le=1e-4)
    weight: float = Field(1.0, ge=0)


def _variational(student: Point, teacher: Point, settings: Settings) -> ModuleBuilder:
    def build(shapes: Shapes) -> nn.Module:
        return Variational(shapes[student][0], shapes[teacher][0], settings.variance, settings.eps)

    return build


def build(settings: Settings, roster: Roster) -> Part:
    student, teacher, pairs = roster.student, roster.teacher, roster.pairs(settings.taps)

    def compute(context: TermContext) -> Tensor:
        first, *rest = [
            context.adapter(mine)(context.tap(student, mine), context.tap(teacher, theirs))
            for mine, theirs in pairs
        ]
        total: Tensor = sum(rest, start=first)
        return total

    mine, theirs = zip(*pairs, strict=True)
    needs = Needs(outputs={student: mine, teacher: theirs})
    adapters = {m: _variational((student, m), (teacher, t), settings) for m, t in pairs}
    return Part(terms=(Term("vid", compute, needs, settings.weight, adapters),))


METHOD = Method(CARD, Settings, build)
