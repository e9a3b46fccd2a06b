"""Online Knowledge Distillation via Collaborative Learning, Guo et al., CVPR 2020, section 3.

    L = sum_i [CE(y, z_i) + weight T^2 KL(softmax(t / T) || softmax(z_i / T))]

z_i are the logits of network i for its own view of the batch; t is made of all of them, per sample:

    KDCL-Naive     t = z_k,   k = argmin_i CE(y, z_i)
    KDCL-Linear    t = sum_i w_i z_i,   w = argmin CE(y, t) over convex weights
    KDCL-MinLogit  t_j = min_i (z_ij - z_iy),   y the label
"""

from __future__ import annotations

import itertools
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from edgekd.core.config import Config
from edgekd.distill.card import Card
from edgekd.distill.cohort import Peers, cohort, tasks
from edgekd.distill.context import TermContext
from edgekd.distill.kernels.respond import kl
from edgekd.distill.method import Method, Roster
from edgekd.distill.program import LOGITS, Needs, Phase, Program, Term, Train, Turn

CARD = Card(
    name="kdcl",
    title="Knowledge distillation via collaborative learning",
    paper="Guo et al.: Online Knowledge Distillation via Collaborative Learning. CVPR 2020",
    equation="per network i: weight T^2 KL(softmax(t / T) || softmax(z_i / T)), sum over classes, mean over "
    "the batch; t from all networks (minlogit: t_j = min_i (z_ij - z_iy))",
    catalogue_id="kdcl",
    knowledge="response",
    scheme="online",
    needs="no teacher; an augmented view of the batch for each network",
    defaults="MinLogit, T = 2, weight 1 (the paper's lambda), two networks; the paper's networks differ in "
    "size: give `peers: [{network: ...}]`",
    cost="a forward and backward pass per peer; `linear`: 25 softmaxes [b, C] per pair of networks and sweep",
    deviations=(
        "KDCL-General is left out: it weighs the networks by their errors on a validation split, and the "
        "data that choose a checkpoint here must not teach",
        "naive and linear choose per sample",
        "public reimplementations take the mean of the logits as target, which is none of the paper's four",
        "untrained networks agree, so the divergences start near zero and rise as the target gets sure",
    ),
    num_teachers=0,
    composable=False,
    may_rise=("kdcl:student", "kdcl:peer1"),
)

_HALVINGS = 25
_SWEEPS = 8


class Settings(Config):
    """peers: beside the student, a number of networks like it or a list of {network, args}.

    target: the logits of the best network, the best convex combination, or the smallest margins. temperature:
    T. weight: lambda.
    """

    peers: Peers = 1
    target: Literal["naive", "linear", "minlogit"] = "minlogit"
    temperature: float = Field(2.0, gt=0)
    weight: float = Field(1.0, ge=0)


def min_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """KDCL-MinLogit: [K, B, C] and labels [B] -> [B, C], the least margins; 0 for the label."""
    return _margins(logits, labels).amin(dim=0)


def best_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """KDCL-Naive: [K, B, C] -> [B, C], of the network with the smallest cross-entropy."""
    best = _margins(logits, labels).logsumexp(dim=2).argmin(dim=0)
    return logits[best, torch.arange(len(labels), device=logits.device)]


def linear_logits(logits: Tensor, labels: Tensor) -> Tensor:
    """KDCL-Linear: [K, B, C] -> [B, C], the convex combination with the smallest cross-entropy.

    That is convex in the weights. Weight is moved between two networks at a time to where it is best, which
    is exact for two networks and converges for more.
    """
    margins = _margins(logits, labels)
    weights = torch.full_like(margins[:, :, :1], 1 / len(margins))
    pairs = list(itertools.combinations(range(len(margins)), 2))
    for first, second in pairs * (1 if len(pairs) == 1 else _SWEEPS):
        _share_best(margins, weights, first, second)
    return (weights * logits).sum(dim=0)


def _margins(logits: Tensor, labels: Tensor) -> Tensor:
    """z_j - z_y; their logsumexp over the classes is the cross-entropy."""
    own = labels[None, :, None].expand(len(logits), -1, 1)
    return logits - logits.gather(2, own)


def _share_best(margins: Tensor, weights: Tensor, first: int, second: int) -> None:
    """Divide the weight of two networks so that the cross-entropy is least; `weights` [K, B, 1] in place.

    The slope along the line between the two grows, so halving finds its zero or the better end.
    """
    together = weights[first] + weights[second]
    line = margins[first] - margins[second]
    start = (weights * margins).sum(dim=0) - weights[first] * line
    low, high = torch.zeros_like(together), together
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        slope = (F.softmax(start + middle * line, dim=1) * line).sum(dim=1, keepdim=True)
        low, high = torch.where(slope < 0, middle, low), torch.where(slope < 0, high, middle)
    weights[first], weights[second] = high, together - high


TARGETS = {"naive": best_logits, "linear": linear_logits, "minlogit": min_logits}


def build(settings: Settings, roster: Roster) -> Program:
    roles = cohort(settings.peers)
    views = {role: "x" if number == 1 else f"x{number}" for number, role in enumerate(roles, 1)}
    make_target = TARGETS[settings.target]

    def collaborative_term(role: str) -> Term:
        def compute(context: TermContext) -> Tensor:
            logits = torch.stack([context.logits(name, view).detach() for name, view in views.items()])
            target = F.softmax(make_target(logits, context.labels) / settings.temperature, dim=1)
            return kl(context.logits(role, views[role]), target, settings.temperature)

        needs = Needs(dict.fromkeys(roles, (LOGITS,)), labels=True, views=tuple(views.values()))
        return Term(f"kdcl:{role}", compute, needs, settings.weight)

    terms = (*tasks(roster, tuple(roles), views).values(), *map(collaborative_term, roles))
    turn = Turn(tuple(Train(role) for role in roles), terms)
    return Program(roles, (Phase("main", (turn,)),))


METHOD = Method(CARD, Settings, build)
