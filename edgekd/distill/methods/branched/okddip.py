"""Online Knowledge Distillation with Diverse Peers, Chen et al., AAAI 2020 (arXiv 1912.00350), section 3.

    t_a = sum_b alpha_ab z_b,   alpha_ab = softmax_b(q(h_a) . k(h_b))   over the auxiliary branches a, b
    L = sum CE + w(t) [sum_a T^2 KL(p(t_a) || p(z_a)) + T^2 KL(p(mean_a z_a) || p(z_leader))],   p at T

h are the embeddings, q and k linear maps that the branches share; w(t) = weight exp(-5 (1 - t / ramp_up)^2).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from edgekd.core.config import Config
from edgekd.core.errors import UsageError
from edgekd.distill.branches import as_plain_network, branch_tap, branch_tasks, branched, split_point
from edgekd.distill.card import Card
from edgekd.distill.context import TermContext
from edgekd.distill.method import Method, Roster
from edgekd.distill.program import (
    Deploy,
    Derived,
    Given,
    ModuleBuilder,
    Needs,
    Phase,
    Program,
    Shapes,
    Term,
    student_turn,
)
from edgekd.distill.weights import RampUp

CARD = Card(
    name="okddip",
    title="Online distillation with diverse peers",
    paper="Chen, Mei, Wang, Feng, Chen: Online Knowledge Distillation with Diverse Peers. AAAI 2020, "
    "arXiv 1912.00350",
    equation="w(t) [sum_a T^2 KL(p(t_a) || p(z_a)) + T^2 KL(p(mean_a z_a) || p(z_leader))], sum over "
    "classes, mean over the batch; t_a = sum_b softmax_b(q(h_a) . k(h_b)) z_b",
    catalogue_id="okddip",
    knowledge="response",
    scheme="online",
    needs="no teacher; a student that torch.fx can trace, with two stage taps or `tap:`, and `embedding`",
    defaults=(
        "four branches of the last stage (three auxiliaries and the leader), T = 3, projections to an eighth "
        "of the embedding, weight 1 with a ramp-up over 80 of 300 epochs, as in the authors' code"
    ),
    cost="the last stage and the classifier once more per branch, forward and backward; q, k [D, D/8]",
    deviations=(
        "gradient flows into the targets, as in the authors' code (the auxiliaries are also pulled to what "
        "imitates them, and it trains q and k); `detach_peers: true` cuts it at the peers' logits and leaves "
        "it in the attention weights",
        "the code adds 1e-7 to the target's probabilities; ours come from a log-softmax, finite without it",
        "branches of one network only; the paper also tries separate networks",
        "branch 1 keeps the student's starting weights and is the leader, the others start from their own",
        "untrained branches agree, so the imitation starts near zero and rises while its weight ramps up",
    ),
    zero_at_match=False,
    num_teachers=0,
    composable=False,
    may_rise=("okddip:peers", "okddip:leader"),
)

BRANCHED = "branched"
_REDUCTION = 8


class Settings(Config):
    """branches: auxiliaries and the leader. tap: where the student splits; by default behind its last stage
    but one. temperature: T. weight: the largest w. ramp_up: share of the training until it is reached.
    detach_peers: see the card.
    """

    branches: int = Field(4, ge=3)
    tap: str | None = None
    temperature: float = Field(3.0, gt=0)
    weight: float = Field(1.0, ge=0)
    ramp_up: float = Field(80 / 300, gt=0, le=1)
    detach_peers: bool = False


def attention(queries: Tensor, keys: Tensor) -> Tensor:
    """softmax_b(q_a . k_b): queries and keys [B, A, D] -> [B, A, A], rows sum to one; not scaled."""
    return F.softmax(queries @ keys.transpose(1, 2), dim=2)


def imitation(logits: Tensor, target_logits: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(target / T) || softmax(logits / T)), [B, ..., C]: sum over classes, mean over the rest.

    Gradient flows into both, and stays finite where probabilities underflow.
    """
    log_own = F.log_softmax(logits / temperature, dim=-1)
    log_target = F.log_softmax(target_logits / temperature, dim=-1)
    return (log_target.exp() * (log_target - log_own)).sum(dim=-1).mean() * temperature**2


def projection(tap: str) -> ModuleBuilder:
    def build(shapes: Shapes) -> nn.Module:
        (width,) = shapes[BRANCHED, tap]
        return nn.Linear(width, max(1, width // _REDUCTION), bias=False)

    return build


def peer_term(auxiliaries: tuple[int, ...], settings: Settings, weight: RampUp) -> Term:
    """Each auxiliary branch imitates its own mixture of all of them."""

    def compute(context: TermContext) -> Tensor:
        logits = torch.stack([context.tap(BRANCHED, branch_tap(a)) for a in auxiliaries], dim=1)
        features = torch.stack(
            [context.tap(BRANCHED, branch_tap(a, "embedding")) for a in auxiliaries], dim=1
        )
        weights = attention(context.adapter("query")(features), context.adapter("key")(features))
        targets = weights @ (logits.detach() if settings.detach_peers else logits)
        return imitation(logits, targets, settings.temperature) * len(auxiliaries)

    taps = tuple(branch_tap(a, tap) for tap in ("logits", "embedding") for a in auxiliaries)
    build = projection(branch_tap(auxiliaries[0], "embedding"))
    return Term("okddip:peers", compute, Needs({BRANCHED: taps}), weight, {"query": build, "key": build})


def leader_term(auxiliaries: tuple[int, ...], settings: Settings, weight: RampUp) -> Term:
    """The leader, branch 1, imitates the mean of the auxiliaries' logits."""

    def compute(context: TermContext) -> Tensor:
        mean = torch.stack([context.tap(BRANCHED, branch_tap(a)) for a in auxiliaries]).mean(dim=0)
        target = mean.detach() if settings.detach_peers else mean
        return imitation(context.tap(BRANCHED, branch_tap(1)), target, settings.temperature)

    taps = tuple(branch_tap(number) for number in (1, *auxiliaries))
    return Term("okddip:leader", compute, Needs({BRANCHED: taps}), weight)


def build(settings: Settings, roster: Roster) -> Program:
    point = split_point(roster, settings.tap)
    if "embedding" not in roster.student_taps:
        raise UsageError(
            "needs the tap `embedding` of the student",
            choices=roster.student_taps,
            fix="declare it in the network (`self.taps`): the input of its classifier",
        )
    branches = tuple(range(1, settings.branches + 1))
    weight = RampUp(settings.weight, settings.ramp_up)
    terms = (
        *branch_tasks(roster, BRANCHED, settings.branches),
        peer_term(branches[1:], settings, weight),
        leader_term(branches[1:], settings, weight),
    )
    derived = Derived(roster.student, lambda student: branched(student, point, settings.branches))
    return Program(
        {roster.student: Given(), BRANCHED: derived},
        (Phase("main", (student_turn(terms, BRANCHED),)),),
        Deploy(BRANCHED, roster.student, as_plain_network),
    )


METHOD = Method(CARD, Settings, build)
