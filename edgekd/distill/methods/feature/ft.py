"""Paraphrasing Complex Network: Factor Transfer, Kim, Park, Kwak, NeurIPS 2018 (arXiv 1802.04977), section 3.

phase 1:  mean_b ||f_t - D(P(f_t))||^2 / ||f_t||^2, training the paraphraser P and its decoder D alone
phase 2:  CE + weight mean_{b,i} |n(P(f_t))_i - n(translator(f_s))_i|,   n(F) = vec(F) / ||vec(F)||_2
"""

from __future__ import annotations

import itertools

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from edgekd.core.config import Config
from edgekd.distill.adapters import Point
from edgekd.distill.card import Card
from edgekd.distill.context import TermContext
from edgekd.distill.kernels.regress import as_map, pooled_to_smaller
from edgekd.distill.method import Method, Part, Roster
from edgekd.distill.program import Built, ModuleBuilder, Needs, Phase, Shapes, Term, Train, Turn

CARD = Card(
    name="ft",
    title="Factor transfer",
    paper=(
        "Kim, Park, Kwak: Paraphrasing Complex Network: Network Compression via Factor Transfer. "
        "NeurIPS 2018, arXiv 1802.04977"
    ),
    equation=(
        "phase 1: mean_b ||f_t - D(P(f_t))||^2 / ||f_t||^2; "
        "phase 2: weight mean |n(P(f_t)) - n(translator(f_s))|"
    ),
    catalogue_id="ft",
    knowledge="feature",
    scheme="offline",
    needs="one teacher; one feature tap in both (channels and sizes may differ)",
    defaults=(
        "last stage; rate k = 0.5; weight 500 on the mean over elements, as in the authors' code (CIFAR-10, "
        "ResNet-56 to ResNet-20); phase 1 takes a tenth of the training (authors' script: 5 epochs before "
        "163, RepDistiller: 30 before 240)"
    ),
    cost=(
        "teacher's forward pass; paraphraser and translator of three 3x3 convolutions each at the last "
        "stage, never deployed"
    ),
    deviations=(
        "phase 1: the paper prints the squared error, the authors' code takes |f_t - D(P(f_t))|; here each "
        "sample's squared error is relative to its features, because the plain one diverges at the student's "
        "learning rate (ResNet-20, sgd at 0.1)",
        "phase 2: the paper prints the sum over elements, the authors' code takes their mean: the code",
        "RepDistiller's `factor` compares normalized means over the channels (a kind of attention map), so "
        "the paraphraser's channels do not matter there",
        "factors of different size: the larger is average-pooled (the authors' networks have equal sizes)",
        "no batch norm between the convolutions, as in the authors' code",
    ),
    zero_at_match=False,
)

PARAPHRASER, DECODER = "paraphraser", "paraphraser-decoder"
"""Role names."""
_SLOPE = 0.1
_SMALLEST_SIZE = 1e-12


def factor_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over batch and elements of |n(student) - n(teacher)|, n(F) = vec(F) / ||vec(F)||_2 (equation 3).

    [B, C, H, W] each, of the same C; the larger map is average-pooled.
    """
    student, teacher = pooled_to_smaller(student, teacher)
    mine, theirs = (F.normalize(features.flatten(1), dim=1) for features in (student, teacher))
    return F.l1_loss(mine, theirs)


def relative_error(decoded: Tensor, features: Tensor) -> Tensor:
    """Mean over the batch of ||decoded - features||^2 / ||features||^2; equal shapes [B, ...].

    Finite for features that are zero throughout.
    """
    errors = (decoded - features).square().flatten(1).mean(dim=1)
    sizes = features.square().flatten(1).mean(dim=1)
    return (errors / sizes.clamp_min(_SMALLEST_SIZE)).mean()


def num_factors(shapes: Shapes, teacher: Point, rate: float) -> int:
    """Channels of the factors: rate x the teacher's, at least one."""
    return max(1, round(rate * shapes[teacher][0]))


def convolutions(*channels: int) -> nn.Sequential:
    """3x3 convolutions from channels[0] to channels[1] and so on, each with a leaky ReLU; sizes stay."""
    layers: list[nn.Module] = []
    for given, wanted in itertools.pairwise(channels):
        layers += [nn.Conv2d(given, wanted, 3, padding=1), nn.LeakyReLU(_SLOPE)]
    return nn.Sequential(*layers)


def _paraphraser(teacher: Point, rate: float) -> ModuleBuilder:
    """[B, C_t, H, W] -> factors [B, k C_t, H, W]."""

    def build(shapes: Shapes) -> nn.Module:
        channels, factors = shapes[teacher][0], num_factors(shapes, teacher, rate)
        return convolutions(channels, channels, factors, factors)

    return build


def _decoder(teacher: Point, rate: float) -> ModuleBuilder:
    """Factors [B, k C_t, H, W] -> [B, C_t, H, W]; at stride 1 a transposed convolution is a convolution."""

    def build(shapes: Shapes) -> nn.Module:
        channels, factors = shapes[teacher][0], num_factors(shapes, teacher, rate)
        return convolutions(factors, factors, channels, channels)

    return build


def _translator(student: Point, teacher: Point, rate: float) -> ModuleBuilder:
    """[B, C_s, h, w] -> factors [B, k C_t, h, w]."""

    def build(shapes: Shapes) -> nn.Module:
        channels, factors = shapes[student][0], num_factors(shapes, teacher, rate)
        return convolutions(channels, channels, factors, factors)

    return build


class Settings(Config):
    """taps: one {student's tap: teacher's}; by default the last stage. rate: k.

    paraphraser_share: phase 1's part of the training.
    """

    taps: dict[str, str] | None = Field(None, min_length=1, max_length=1)
    rate: float = Field(0.5, gt=0)
    paraphraser_share: float = Field(0.1, gt=0, lt=1)
    weight: float = Field(500.0, ge=0)


def paraphrase_term(teacher: Point) -> Term:
    """`relative_error` of what the decoder makes of the factors of the teacher's features."""

    def compute(context: TermContext) -> Tensor:
        features = as_map(context.tap(*teacher))
        return relative_error(context.call(DECODER, context.call(PARAPHRASER, features)), features)

    needs = Needs(outputs={teacher[0]: (teacher[1],)}, calls=(PARAPHRASER, DECODER))
    return Term("paraphrase", compute, needs)


def factor_term(student: Point, teacher: Point, rate: float, weight: float) -> Term:
    """`factor_distance` between the translated student and the paraphrased teacher."""

    def compute(context: TermContext) -> Tensor:
        translated = context.adapter("translator")(as_map(context.tap(*student)))
        return factor_distance(translated, context.call(PARAPHRASER, as_map(context.tap(*teacher))))

    needs = Needs(outputs={student[0]: (student[1],), teacher[0]: (teacher[1],)}, calls=(PARAPHRASER,))
    return Term("ft", compute, needs, weight, {"translator": _translator(student, teacher, rate)})


def build(settings: Settings, roster: Roster) -> Part:
    mine, theirs = roster.pairs(settings.taps)[-1]
    student, teacher = (roster.student, mine), (roster.teacher, theirs)
    roles = {
        PARAPHRASER: Built(_paraphraser(teacher, settings.rate)),
        DECODER: Built(_decoder(teacher, settings.rate)),
    }
    turn = Turn((Train(PARAPHRASER), Train(DECODER)), (paraphrase_term(teacher),))
    share = settings.paraphraser_share / (1 - settings.paraphraser_share)
    return Part(
        terms=(factor_term(student, teacher, settings.rate, settings.weight),),
        roles=roles,
        before=(Phase("paraphraser", (turn,), share),),
    )


METHOD = Method(CARD, Settings, build)
