"""A Comprehensive Overhaul of Feature Distillation, Heo et al., ICCV 2019 (arXiv 1904.01866), section 3.

    L = CE + weight sum_l 2^(l-L) n_l/n_L mean_{b,c,hw} d(r_l(s_l), max(t_l, m_l)),   m_c = E[t_c | t_c < 0]
    d(s, t) = 0 where s <= t <= 0, else (s - t)^2

s_l and t_l are what the stage's last ReLU takes, r_l is a 1x1 convolution with batch norm, n_l the number of
elements of t_l.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor, nn

from edgekd.core.config import Config
from edgekd.distill.card import Card
from edgekd.distill.context import Memory, TermContext
from edgekd.distill.method import Method, Part, Roster
from edgekd.distill.pre_activation import connected_term, pre_activation_pairs
from edgekd.networks.preceding_norm import preceding_norm
from edgekd.networks.tap import require, taps_of

CARD = Card(
    name="overhaul",
    title="A comprehensive overhaul of feature distillation (margin ReLU, partial L2)",
    paper="Heo et al.: A Comprehensive Overhaul of Feature Distillation. ICCV 2019, arXiv 1904.01866",
    equation="weight sum_l 2^(l-L) n_l/n_L mean partial_L2(r_l(s_l), max(t_l, m_l)), m_c = E[t_c | t_c < 0]",
    catalogue_id="overhaul",
    knowledge="feature",
    scheme="offline",
    needs=(
        "one teacher; taps before the activation (`stageN:pre`) in both, channels and sizes may differ. The "
        "teacher's margins come from the batch norm before the tap, else they are measured. Folding the "
        "student's batch norm for quantization keeps these taps: only points between a convolution and its "
        "batch norm are lost"
    ),
    defaults=(
        "weight 16.384: the authors divide the sum over elements by 1000 (CIFAR), and the last map of their "
        "teacher WRN-28-4 has n_L = 16384 elements; so the stages keep their balance, 2^(l-L) on sums"
    ),
    cost="teacher's forward pass; one 1x1 convolution per stage, never deployed",
    deviations=(
        "means over elements instead of sums; the ImageNet code divides by 10000",
        "in residual networks the value before the activation is a sum: as in the authors' code the margin "
        "is that of the batch norm of the block's last convolution",
        "where no batch norm makes the value (folded teachers, other norms) or the teacher cannot be traced, "
        "the margin is the mean of the negative values seen so far, the definition in the paper",
        "the authors run the teacher's batch norm on batch statistics; here the teacher is as it is deployed",
        "the margins of AberHu's OFD come from the present batch alone",
        "maps of different size: the student's is average-pooled or grown bilinearly before the batch norm",
    ),
    zero_at_match=False,
)

_SMALLEST_TAIL = 1e-3


def gaussian_margin(scale: Tensor, shift: Tensor) -> Tensor:
    """E[x | x < 0] of x ~ N(shift, scale^2); [C] each (the authors' code; the paper refers to batch norm).

    Where x < 0 has a probability below 0.001, -3 |scale|.
    """
    scale = scale.abs().clamp_min(torch.finfo(scale.dtype).tiny)
    ratio = shift / scale
    density = torch.exp(-0.5 * ratio.square()) / math.sqrt(2 * math.pi)
    tail = torch.special.ndtr(-ratio)
    margin = shift - scale * density / tail.clamp_min(_SMALLEST_TAIL)
    return torch.where(tail > _SMALLEST_TAIL, margin, -3 * scale)


def partial_l2(student: Tensor, teacher: Tensor, margin: Tensor) -> Tensor:
    """Mean over batch and elements of (student - t)^2, t = max(teacher, margin), 0 where student <= t <= 0.

    student, teacher: [B, C, H, W]; margin: [C] (equation 5).
    """
    target = torch.maximum(teacher, margin[:, None, None])
    counted = (student > target) | (target > 0)
    return ((student - target).square() * counted).mean()


def margin_of(norm: nn.BatchNorm2d) -> Tensor:
    """[C]: the margin of what a batch norm gives."""
    if not norm.affine:
        return gaussian_margin(torch.ones(norm.num_features), torch.zeros(norm.num_features))
    return gaussian_margin(norm.weight.detach(), norm.bias.detach())


def measured_margin(memory: Memory, tap: str, features: Tensor) -> Tensor:
    """[C]: mean of the negative values of `features` [B, C, H, W] and of all before; 0 where there was none.

    Their sum and number stand in `memory` as `<tap> sum` and `<tap> count`.
    """
    negative = features < 0
    for kind, values in (("sum", features * negative), ("count", negative.to(features))):
        new, key = values.sum(dim=(0, 2, 3)), f"{tap} {kind}"
        memory[key] = memory[key].to(new) + new if key in memory else new
    return memory[f"{tap} sum"] / memory[f"{tap} count"].clamp_min(1)


def teacher_margin(context: TermContext, teacher: str, tap: str, features: Tensor) -> Tensor:
    """[C]: from the batch norm before the tap, looked up once and kept in memory, else measured."""
    memory, kept = context.memory, f"{tap} margin"
    if kept not in memory and f"{tap} count" not in memory:
        module = context.module(teacher)
        norm = preceding_norm(module, require(taps_of(module), [tap])[tap])
        if norm is not None:
            memory[kept] = margin_of(norm)
    return memory[kept].to(features) if kept in memory else measured_margin(memory, tap, features)


class Settings(Config):
    """taps: student's tap -> teacher's, from shallow to deep; by default `stageN:pre` of every stage."""

    taps: dict[str, str] | None = None
    weight: float = Field(16.384, ge=0)


def build(settings: Settings, roster: Roster) -> Part:
    teacher = roster.teacher

    def distance(context: TermContext, tap: str, student: Tensor, features: Tensor) -> Tensor:
        return partial_l2(student, features, teacher_margin(context, teacher, tap, features))

    pairs = pre_activation_pairs(roster, settings.taps)
    return Part(
        terms=(
            connected_term(
                "overhaul", roster.student, teacher, pairs, distance, settings.weight, modules=(teacher,)
            ),
        )
    )


METHOD = Method(CARD, Settings, build)
