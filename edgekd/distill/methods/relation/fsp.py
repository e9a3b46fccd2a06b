"""A Gift from Knowledge Distillation, Yim et al., CVPR 2017, section 3: flow of solution procedure.

    G_ij = sum_{h,w} F1_hw,i F2_hw,j / (h w)   for two layers F1, F2 of one network

phase 1 (flow):  weight sum_flows mean (G_s - G_t)^2, training the student up to the last of the layers
phase 2:         CE
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from edgekd.core.config import Config
from edgekd.core.errors import UsageError
from edgekd.distill.adapters import Point
from edgekd.distill.card import Card
from edgekd.distill.context import TermContext
from edgekd.distill.kernels.regress import as_map, mean_squared_error
from edgekd.distill.kernels.relate import channels, cross_gram
from edgekd.distill.method import Method, Part, Roster, TapPairs
from edgekd.distill.program import ModuleBuilder, Phase, Shapes, Term, Train, Turn
from edgekd.distill.relations import pair_needs

CARD = Card(
    name="fsp",
    title="Flow of solution procedure",
    paper=(
        "Yim, Joo, Bae, Kim: A Gift from Knowledge Distillation: Fast Optimization, Network Minimization and "
        "Transfer Learning. CVPR 2017"
    ),
    equation="phase 1: weight sum_flows mean_{b,ij} (G_s - G_t)_ij^2, G = F1^T F2 / (h w); phase 2: none",
    catalogue_id="fsp",
    knowledge="relation",
    scheme="offline",
    needs="one teacher; two or more feature-map taps in both",
    defaults=(
        "equal weights of the flows, as in the paper; a mean over the entries in place of their sum changes "
        "only the learning rate's meaning; phase 1: a quarter of the training (the paper gives each phase a "
        "schedule of its own; RepDistiller a ninth)"
    ),
    cost="phase 1: teacher's forward pass, C1 C2 h w multiplications per sample and flow; phase 2: nothing",
    deviations=(
        "flows run from stage to stage; in the paper from the first to the last layer of each stage",
        "1x1 convolutions on the student where its channels differ from the teacher's (equal in the paper)",
        "the larger map of a flow is max-pooled as in the paper; RepDistiller and the "
        "Knowledge-Distillation-Zoo average (`pool: average`)",
        "the Knowledge-Distillation-Zoo adds the term to cross-entropy in one phase; torchdistill's FSP has "
        "un-squared column norms",
    ),
)

Pool = Literal["max", "average"]


def flow(first: Tensor, second: Tensor, pool: Pool) -> Tensor:
    """FSP matrix [B, C1, C2] of two layers [B, C1, H1, W1], [B, C2, H2, W2]; the larger map is pooled."""
    first, second = as_map(first), as_map(second)
    height, width = (min(first.shape[axis], second.shape[axis]) for axis in (2, 3))
    shrink = F.adaptive_max_pool2d if pool == "max" else F.adaptive_avg_pool2d
    first, second = (
        maps if tuple(maps.shape[2:]) == (height, width) else shrink(maps, (height, width))
        for maps in (first, second)
    )
    return cross_gram(channels(first), channels(second))


def same_channels(source: Point, target: Point) -> ModuleBuilder:
    """A 1x1 convolution from one tap's channels to another's; nothing where they are equal."""

    def build(shapes: Shapes) -> nn.Module:
        given, wanted = shapes[source][0], shapes[target][0]
        return nn.Identity() if given == wanted else nn.Conv2d(given, wanted, 1, bias=False)

    return build


class Settings(Config):
    """taps: two or more, student's -> teacher's, in order; by default every stage.

    init_share: of the training. pool: how the larger map of two layers gets the size of the smaller. weight:
    of phase 1.
    """

    taps: dict[str, str] | None = Field(None, min_length=2)
    init_share: float = Field(0.25, gt=0, lt=1)
    pool: Pool = "max"
    weight: float = Field(1.0, ge=0)


def flow_term(roster: Roster, pairs: TapPairs, pool: Pool, weight: float) -> Term:
    """Sum over neighboring tap pairs of the mean squared difference of their FSP matrices."""
    student, teacher = roster.student, roster.teacher

    def compute(context: TermContext) -> Tensor:
        ours = [context.adapter(mine)(context.tap(student, mine)) for mine, _ in pairs]
        others = [context.tap(teacher, theirs).detach() for _, theirs in pairs]
        flows = zip(pairwise(ours), pairwise(others), strict=True)
        errors = [mean_squared_error(flow(*mine, pool), flow(*theirs, pool)) for mine, theirs in flows]
        return sum(errors[1:], start=errors[0])

    adapters = {mine: same_channels((student, mine), (teacher, theirs)) for mine, theirs in pairs}
    return Term("fsp", compute, pair_needs(roster, pairs, whole_batch=False), weight, adapters)


def build(settings: Settings, roster: Roster) -> Part:
    pairs = roster.pairs(settings.taps)
    if len(pairs) < 2:
        raise UsageError("needs two layers to relate and got one", fix="give two or more `taps`")
    term = flow_term(roster, pairs, settings.pool, settings.weight)
    turn = Turn((Train(roster.student, up_to=pairs[-1][0]),), (term,))
    share = settings.init_share / (1 - settings.init_share)
    return Part(before=(Phase("flow", (turn,), share),))


METHOD = Method(CARD, Settings, build)
