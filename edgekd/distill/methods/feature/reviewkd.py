"""Distilling Knowledge via Knowledge Review, Chen, Liu, Zhao, Jia, CVPR 2021 (arXiv 2104.09044), section 3.

    L = CE + weight sum_l HCL(F_l(s_l, .., s_L), t_l)
    HCL(a, b) = sum_k 2^-k mean (pool_k(a) - pool_k(b))^2 / sum_k 2^-k,   pool_k: as it is, 4x4, 2x2, 1x1

Level l of the teacher is compared with the student's levels l and deeper, fused from the deepest one up by
attention (ABF); the deepest level is the embedding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from edgekd.core.config import Config
from edgekd.distill.adapters import Point, map_shape, normalized
from edgekd.distill.card import Card
from edgekd.distill.context import TermContext
from edgekd.distill.kernels.regress import as_map, mean_squared_error
from edgekd.distill.method import Method, Part, Roster, TapPairs
from edgekd.distill.program import ModuleBuilder, Needs, Shapes, Term
from edgekd.distill.weights import WarmUp

CARD = Card(
    name="reviewkd",
    title="Knowledge review",
    paper="Chen et al.: Distilling Knowledge via Knowledge Review. CVPR 2021, arXiv 2104.09044",
    equation="weight sum_l HCL(fused student levels l..L, t_l), HCL: mean squared errors at 4 pooled sizes",
    catalogue_id="reviewkd",
    knowledge="feature",
    scheme="offline",
    needs=(
        "one teacher; feature taps in both (channels and sizes may differ), in as many levels as possible; "
        "batches of two images or more (batch norm over one-position maps)"
    ),
    defaults=(
        "weight 1 on means over elements, from zero over the first 20 of 240 epochs (a twelfth of the "
        "training): default of the authors' CIFAR code, whose scripts take 0.6 for ResNet-56 to ResNet-20, 1 "
        "for ResNet-110 to ResNet-32, 5 to 8 for wide networks; at most 512 channels in the fusion"
    ),
    cost="teacher's forward pass; a 1x1 and a 3x3 convolution per level, never deployed",
    deviations=(
        "as in the authors' code the teacher's stages are read before their last activation, the student's "
        "after it, and the pooled embedding is the deepest level",
        "the warm-up runs by update instead of by epoch",
        "the stem of the network is not a level (as in the authors' CIFAR code)",
    ),
    zero_at_match=False,
)

_MOST_CHANNELS = 512
_SIZES = (4, 2, 1)


def hierarchical_context(student: Tensor, teacher: Tensor) -> Tensor:
    """Weighted mean of the mean squared errors of the maps and of their 4x4, 2x2 and 1x1 pooled forms (HCL).

    [B, C, H, W] each; weights 1, 1/2, 1/4, 1/8; only sizes below the map's own count (section 3.3).
    """
    total, weight, weights = mean_squared_error(student, teacher), 1.0, 1.0
    for size in _SIZES:
        if size >= min(student.shape[2:]):
            continue
        pooled = (F.adaptive_avg_pool2d(features, size) for features in (student, teacher))
        weight /= 2
        total = total + weight * mean_squared_error(*pooled)
        weights += weight
    return total / weights


class Fusion(nn.Module):
    """Attention-based fusion (ABF, figure 3b): a level of the student joined with what deeper levels gave.

    own [B, in_channels, h, w] and carried [B, channels, h', w'] (None at the deepest level) ->
    (comparable with the teacher [B, out_channels, *size], carried on [B, channels, *size]).
    """

    def __init__(
        self, in_channels: int, channels: int, out_channels: int, size: tuple[int, int], *, deepest: bool
    ) -> None:
        super().__init__()
        self.size = size
        self.reduce = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.reduce_norm = nn.BatchNorm2d(channels)
        self.attention = None if deepest else nn.Conv2d(2 * channels, 2, 1)
        self.expand = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
        self.expand_norm = nn.BatchNorm2d(out_channels)
        for convolution in (self.reduce, self.expand):
            nn.init.kaiming_uniform_(convolution.weight, a=1)

    def forward(self, own: Tensor, carried: Tensor | None) -> tuple[Tensor, Tensor]:
        fused = normalized(self.reduce_norm, self.reduce(own))
        if self.attention is not None and carried is not None:
            carried = F.interpolate(carried, tuple(own.shape[2:]), mode="nearest")
            shares = torch.sigmoid(self.attention(torch.cat([fused, carried], dim=1)))
            fused = fused * shares[:, :1] + carried * shares[:, 1:]
        if tuple(fused.shape[2:]) != self.size:
            fused = F.interpolate(fused, self.size, mode="nearest")
        return normalized(self.expand_norm, self.expand(fused)), fused


class Review(nn.Module):
    """The chain of fusions; `fusions` and the levels stand from shallow to deep."""

    def __init__(self, fusions: list[Fusion]) -> None:
        super().__init__()
        self.fusions = nn.ModuleList(fusions)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """[B, C, h, w] per level -> [B, C_t, H_t, W_t] per level."""
        carried: Tensor | None = None
        reviewed: list[Tensor] = []
        for fusion, level in zip(reversed(self.fusions), reversed(levels), strict=True):
            comparable, carried = fusion(level, carried)
            reviewed.insert(0, comparable)
        return reviewed


def review(student: str, teacher: str, pairs: TapPairs) -> ModuleBuilder:
    """A `Review` for pairs of taps from shallow to deep."""

    def build(shapes: Shapes) -> nn.Module:
        channels = min(_MOST_CHANNELS, shapes[student, pairs[-1][0]][0])
        return Review(
            [
                _fusion(shapes, (student, mine), (teacher, theirs), channels, deepest=level == len(pairs) - 1)
                for level, (mine, theirs) in enumerate(pairs)
            ]
        )

    return build


def _fusion(shapes: Shapes, student: Point, teacher: Point, channels: int, *, deepest: bool) -> Fusion:
    out_channels, height, width = map_shape(shapes, teacher)
    return Fusion(shapes[student][0], channels, out_channels, (height, width), deepest=deepest)


class Settings(Config):
    """taps: student's tap -> teacher's, from shallow to deep; by default the student's stages with the
    teacher's before their activation, then the embeddings.

    warm_up: part of the training over which the weight grows from zero.
    """

    taps: dict[str, str] | None = None
    warm_up: float = Field(20 / 240, ge=0, lt=1)
    weight: float = Field(1.0, ge=0)


def level_pairs(roster: Roster) -> TapPairs:
    """Student's stages with the teacher's pre-activations, and the embeddings where both have them."""
    levels = {mine: f"{theirs}:pre" for mine, theirs in roster.pairs(None)}
    if "embedding" in roster.student_taps and "embedding" in roster.teacher_taps[roster.teacher]:
        levels["embedding"] = "embedding"
    return roster.pairs(levels)


def build(settings: Settings, roster: Roster) -> Part:
    student, teacher = roster.student, roster.teacher
    pairs = roster.pairs(settings.taps) if settings.taps else level_pairs(roster)

    def compute(context: TermContext) -> Tensor:
        reviewed = context.adapter("review")([as_map(context.tap(student, mine)) for mine, _ in pairs])
        targets = [as_map(context.tap(teacher, theirs)) for _, theirs in pairs]
        first, *rest = [hierarchical_context(s, t) for s, t in zip(reviewed, targets, strict=True)]
        total: Tensor = sum(rest, start=first)
        return total

    mine, theirs = zip(*pairs, strict=True)
    needs = Needs(outputs={student: mine, teacher: theirs})
    weight = WarmUp(settings.weight, settings.warm_up)
    adapters = {"review": review(student, teacher, pairs)}
    return Part(terms=(Term("reviewkd", compute, needs, weight, adapters),))


METHOD = Method(CARD, Settings, build)
