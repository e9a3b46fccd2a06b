"""Be Your Own Teacher, Zhang, Song, Gao, Chen, Bao, Ma, ICCV 2019 (arXiv 1905.08094), section 3, equation 5.

    L = CE(y, z) + sum_i [(1 - alpha) CE(y, z_i) + alpha T^2 KL(p || p_i) + hint_weight mean (F_i - F)^2]

z_i and F_i are the logits and the features of the exit behind stage i, z and F those of the network itself,
which carry no gradient as targets.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from edgekd.core.config import Config
from edgekd.core.errors import UsageError
from edgekd.distill.adapters import map_shape
from edgekd.distill.card import Card
from edgekd.distill.context import TermContext
from edgekd.distill.heads import without_heads
from edgekd.distill.kernels.regress import as_map, mean_squared_error
from edgekd.distill.kernels.respond import kl
from edgekd.distill.method import Method, Roster
from edgekd.distill.program import (
    LOGITS,
    Deploy,
    Derived,
    Given,
    Head,
    Needs,
    Phase,
    Program,
    Shapes,
    Term,
    student_turn,
)
from edgekd.networks.tap import Tap

CARD = Card(
    name="byot",
    title="Be your own teacher (self-distillation to early exits)",
    paper="Zhang et al.: Be Your Own Teacher. ICCV 2019, arXiv 1905.08094",
    equation="sum_i [alpha T^2 KL(p || p_i) + hint_weight mean (F_i - F)^2] over the exits i, sum over "
    "classes, mean over the batch and, of the hint, over elements",
    catalogue_id="byot",
    knowledge="mixed",
    scheme="self",
    needs="no teacher; a student with two stage taps or more and `embedding`",
    defaults=(
        "alpha 0.1, T = 3 and hint weight 0.066 = 1e-6 x 128 x 512: the public reimplementation "
        "(luanyunteng), whose hint is a sum over its batches of 128 and 512 features. The paper does not "
        "print its values"
    ),
    cost="a bottleneck and a classifier per stage but the last, forward and backward; none is deployed",
    deviations=(
        "the deepest exit's cross-entropy has weight 1 as in the paper (alpha_C = 0); the code has 1 - alpha",
        "the code's imitation is a cross-entropy with the soft target: KL plus a constant",
        "the hint compares pooled features, as the code does; its mask changes nothing behind a ReLU",
        "the paper leaves the bottlenecks open: 1x1, kxk with stride k, 1x1 convolutions as in the code, k "
        "the ratio of the sizes of the two maps",
        "an untrained trunk is unsure and its features are small, so both terms start low and rise with it",
    ),
    zero_at_match=False,
    num_teachers=0,
    composable=False,
    may_rise=("byot", "byot:hint"),
    kinds={"byot": "response", "byot:hint": "feature"},
)

EXITED = "exited"


class Settings(Config):
    """alpha: share of the imitation in an exit's loss, against its cross-entropy. temperature: T.

    hint_weight: of the feature distance (lambda).
    """

    alpha: float = Field(0.1, ge=0, le=1)
    temperature: float = Field(3.0, gt=0)
    hint_weight: float = Field(0.066, ge=0)


class Exit(nn.Module):
    """[B, in_channels, H, W] -> bottleneck -> pooled features [B, width] -> logits [B, num_classes].

    The bottleneck shrinks the map `ratio` times.
    """

    def __init__(self, in_channels: int, width: int, ratio: int, num_classes: int) -> None:
        super().__init__()
        middle = max(1, width // 4)
        self.reduce = _convolved(in_channels, middle, 1)
        self.shrink = _convolved(middle, middle, ratio)
        self.restore = _convolved(middle, width, 1)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        maps: Tensor = self.restore(self.shrink(self.reduce(as_map(features))))
        logits: Tensor = self.classifier(maps.mean(dim=(2, 3)))
        return logits


def _convolved(in_channels: int, out_channels: int, size: int) -> nn.Module:
    """Convolution with windows of `size` side by side, batch norm, ReLU."""
    return nn.Sequential(
        OrderedDict(
            convolution=nn.Conv2d(in_channels, out_channels, size, stride=size, bias=False),
            norm=nn.BatchNorm2d(out_channels),
            relu=nn.ReLU(),
        )
    )


def exit_head(stage: str, deepest: str) -> Head:
    """An exit behind `stage`: its logits, and `:features` of the width of the network's embedding."""

    def build(shapes: Shapes) -> nn.Module:
        channels, height, _ = map_shape(shapes, (EXITED, stage))
        ratio = max(1, height // map_shape(shapes, (EXITED, deepest))[1])
        return Exit(channels, shapes[EXITED, "embedding"][0], ratio, shapes[EXITED, LOGITS][0])

    return Head((stage,), build, {"features": Tap("classifier", "input")})


def imitation_term(exits: tuple[str, ...], temperature: float, weight: float) -> Term:
    """Sum over the exits of T^2 KL(deepest || exit)."""

    def compute(context: TermContext) -> Tensor:
        target = F.softmax(context.logits(EXITED).detach() / temperature, dim=1)
        return torch.stack([kl(context.tap(EXITED, tap), target, temperature) for tap in exits]).sum()

    return Term("byot", compute, Needs({EXITED: (LOGITS, *exits)}), weight)


def hint_term(exits: tuple[str, ...], weight: float) -> Term:
    """Sum over the exits of the mean squared distance of their features to the embedding."""
    taps = tuple(f"{tap}:features" for tap in exits)

    def compute(context: TermContext) -> Tensor:
        target = context.tap(EXITED, "embedding").detach()
        return torch.stack([mean_squared_error(context.tap(EXITED, tap), target) for tap in taps]).sum()

    return Term("byot:hint", compute, Needs({EXITED: ("embedding", *taps)}), weight)


def build(settings: Settings, roster: Roster) -> Program:
    *stages, deepest = roster.stages
    if not stages or "embedding" not in roster.student_taps:
        raise UsageError(
            "needs the student's taps `stage1`, `stage2` (or more) and `embedding`",
            choices=roster.student_taps,
            fix="declare them in the network (`self.taps`), or use a method on logits",
        )
    heads = {f"exit{number}": exit_head(stage, deepest) for number, stage in enumerate(stages, 1)}
    exits, share = tuple(heads), 1 - settings.alpha
    terms = (
        roster.task.term(EXITED),
        *(roster.task.term(EXITED, weight=share, name=f"task:{tap}", tap=tap) for tap in exits),
        imitation_term(exits, settings.temperature, settings.alpha),
        hint_term(exits, settings.hint_weight),
    )
    return Program(
        {roster.student: Given(), EXITED: Derived(roster.student, heads=heads)},
        (Phase("main", (student_turn(terms, EXITED),)),),
        Deploy(EXITED, roster.student, without_heads),
    )


METHOD = Method(CARD, Settings, build)
