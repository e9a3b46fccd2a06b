"""Deep Mutual Learning, Zhang, Xiang, Hospedales, Lu, CVPR 2018 (arXiv 1706.00384), section 3, equation 7.

    L_k = CE(y, z_k) + weight / (K - 1) sum_{l != k} T^2 KL(p_l || p_k)   for each of K networks,   T = 1

p_l carries no gradient. `together` updates all networks from the same predictions; `in_turn` updates one
after the other, each from what the earlier ones have just become (the paper's algorithm 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from edgekd.core.config import Config
from edgekd.distill.card import Card
from edgekd.distill.cohort import Peers, cohort, others_of, tasks
from edgekd.distill.context import TermContext
from edgekd.distill.kernels.respond import kl
from edgekd.distill.method import Method, Roster
from edgekd.distill.program import LOGITS, Needs, Phase, Program, Term, Train, Turn

CARD = Card(
    name="dml",
    title="Deep mutual learning",
    paper="Zhang, Xiang, Hospedales, Lu: Deep Mutual Learning. CVPR 2018, arXiv 1706.00384",
    equation="per network k: weight / (K - 1) sum_{l != k} T^2 KL(p_l || p_k), mean over the batch",
    catalogue_id="dml",
    knowledge="response",
    scheme="online",
    needs="no teacher; the peers are trained beside the student and thrown away",
    defaults="two networks of the student's architecture, T = 1, weight 1, task weight 1, as in the paper",
    cost="a forward and backward pass per peer; `in_turn`: one or two further forward passes per network",
    deviations=(
        "`order: together` by default: one synchronous update costs K forward passes, the published turns "
        "(`in_turn`) 3 K - 2",
        "the authors' code adds all K - 1 divergences; the paper averages them, and so do we",
        "`in_turn`: resting peers predict with the statistics of the batch, as in the authors' graph, and "
        "their running statistics move with every pass",
        "untrained peers agree, so the divergences start near zero and rise before they fall",
    ),
    num_teachers=0,
    composable=False,
    may_rise=("dml:student", "dml:peer1"),
)


class Settings(Config):
    """peers: beside the student, a number of networks like it or a list of {network, args}.

    order: `together` updates all from the same predictions, `in_turn` one after the other. temperature: T.
    weight: of the mean divergence from the peers.
    """

    peers: Peers = 1
    order: Literal["together", "in_turn"] = "together"
    temperature: float = Field(1.0, gt=0)
    weight: float = Field(1.0, ge=0)


def mutual_term(role: str, peers: Sequence[str], temperature: float, weight: float) -> Term:
    """Mean over the peers of T^2 KL(peer || role)."""

    def compute(context: TermContext) -> Tensor:
        targets = [F.softmax(context.logits(peer).detach() / temperature, dim=1) for peer in peers]
        distances = [kl(context.logits(role), target, temperature) for target in targets]
        return torch.stack(distances).mean()

    needs = Needs(outputs=dict.fromkeys((role, *peers), (LOGITS,)))
    return Term(f"dml:{role}", compute, needs, weight)


def build(settings: Settings, roster: Roster) -> Program:
    roles = cohort(settings.peers)
    names = tuple(roles)
    task = tasks(roster, names)
    mutual = {
        role: mutual_term(role, others_of(role, names), settings.temperature, settings.weight)
        for role in names
    }
    if settings.order == "together":
        terms = (*task.values(), *mutual.values())
        turns: tuple[Turn, ...] = (Turn(tuple(Train(role) for role in names), terms),)
    else:
        turns = tuple(
            Turn((Train(role),), (task[role], mutual[role]), modes=dict.fromkeys(names, "train"))
            for role in names
        )
    return Program(roles, (Phase("main", turns),))


METHOD = Method(CARD, Settings, build)
