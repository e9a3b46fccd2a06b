"""Decoupled Knowledge Distillation, Zhao et al., CVPR 2022 (arXiv 2203.08679), equation 7.

    L = CE(y, z_s) + weight w (alpha T^2 KL(b_t || b_s) + beta T^2 KL(p^_t || p^_s))

b = (p_y, 1 - p_y) (target class), p^ = the distribution over the other classes, both at temperature T. With
beta = 1 - p_t,y per sample the sum is plain kd. w rises linearly from 0 to 1 over the warm-up.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from edgekd.core.config import Config
from edgekd.distill.card import Card
from edgekd.distill.context import TermContext
from edgekd.distill.kernels.respond import kl
from edgekd.distill.method import Method, Part, Roster
from edgekd.distill.program import LOGITS, Needs, Term
from edgekd.distill.weights import WarmUp

CARD = Card(
    name="dkd",
    title="Decoupled knowledge distillation",
    paper="Zhao, Cui, Song, Qiu, Liang: Decoupled Knowledge Distillation. CVPR 2022, arXiv 2203.08679",
    equation=(
        "weight (alpha T^2 KL(b_t || b_s) + beta T^2 KL(p^_t || p^_s)), label against the rest and the other "
        "classes among themselves; sum over classes, mean over the batch"
    ),
    catalogue_id="dkd",
    knowledge="response",
    scheme="offline",
    needs="one teacher with the student's classes; labels",
    defaults=(
        "alpha 1, beta 8, T = 4, task weight 1, warm-up 1/12 (20 of 240 epochs): the authors' CIFAR-100 "
        "defaults, in our convention. They set beta per pair: ResNet-56 to ResNet-20 has 2, ImageNet 0.5 at "
        "T = 1 with a warm-up of 1 of 100 epochs"
    ),
    cost="one forward pass of the teacher (none where its answers are on file)",
    deviations=(
        "the warm-up rises per update and starts at 0, the authors' per epoch and at 1/20",
        "the other classes are picked out; the authors' code subtracts 1000 from the label's logit, which is "
        "the same up to rounding (and wrong for logits beyond 1000)",
        "the teacher is never differentiated: in mdistiller's and mmrazor's form its gradient is NaN",
    ),
)


def label_or_not(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits [B, 2] whose softmax is (p_y, 1 - p_y); logits: [B, C], labels: int64 [B]."""
    label = logits.gather(1, labels[:, None])
    return torch.cat([label, torch.logsumexp(other_classes(logits, labels), dim=1, keepdim=True)], dim=1)


def other_classes(logits: Tensor, labels: Tensor) -> Tensor:
    """The logits [B, C - 1] of all classes but the label, in order; logits: [B, C], labels: int64 [B]."""
    places = torch.arange(logits.shape[1] - 1, device=logits.device)[None]
    return logits.gather(1, places + (places >= labels[:, None]))


def target_class_kl(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """T^2 KL(b_t || b_s) of logits [B, C], b = (p_y, 1 - p_y): the paper's TCKD, mean over the batch."""
    target = label_or_not(teacher / temperature, labels).softmax(dim=1)
    return kl(label_or_not(student / temperature, labels), target) * temperature**2


def non_target_kl(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """T^2 KL(p^_t || p^_s) of logits [B, C], p^ over the other classes: NCKD, sum over them, batch mean."""
    target = (other_classes(teacher, labels) / temperature).softmax(dim=1)
    return kl(other_classes(student, labels), target, temperature)


class Settings(Config):
    """alpha, beta: of the two parts. warmup: share of the training. weight: a common factor of both."""

    temperature: float = Field(4.0, gt=0)
    alpha: float = Field(1.0, ge=0)
    beta: float = Field(8.0, ge=0)
    warmup: float = Field(1 / 12, ge=0, le=1)
    weight: float = Field(1.0, ge=0)


def build(settings: Settings, roster: Roster) -> Part:
    student, teacher, temperature = roster.student, roster.teacher, settings.temperature

    def target_class(context: TermContext) -> Tensor:
        logits = context.logits(student), context.logits(teacher).detach()
        return target_class_kl(*logits, context.labels, temperature)

    def non_target(context: TermContext) -> Tensor:
        logits = context.logits(student), context.logits(teacher).detach()
        return non_target_kl(*logits, context.labels, temperature)

    needs = Needs(outputs={student: (LOGITS,), teacher: (LOGITS,)}, labels=True)
    alpha = WarmUp(settings.weight * settings.alpha, settings.warmup)
    beta = WarmUp(settings.weight * settings.beta, settings.warmup)
    first = Term("dkd-target", target_class, needs, alpha)
    return Part(terms=(first, Term("dkd-non-target", non_target, needs, beta)))


METHOD = Method(CARD, Settings, build)
