"""Large scale distributed neural network training through online distillation, Anil et al., ICLR 2018
(arXiv 1804.03235), section 2 and algorithm 1.

    L_i = CE(y, z_i) + weight psi(1 / (N - 1) sum_{j != i} p_j, p_i)   after a burn-in

p_j are the predictions of copies of the other networks that are `every` steps old at most; psi is the
cross-entropy with the soft target (the paper's choice) or the KL divergence, which has the same gradient.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor

from edgekd.core.config import Config
from edgekd.distill.card import Card
from edgekd.distill.cohort import Peers, cohort, others_of, tasks
from edgekd.distill.context import TermContext
from edgekd.distill.hooks import StaleCopy
from edgekd.distill.kernels.respond import kl, soft_cross_entropy
from edgekd.distill.method import Method, Roster
from edgekd.distill.program import LOGITS, CopyOf, Needs, Phase, Program, Term, Train, Turn
from edgekd.distill.targets import mean_of
from edgekd.distill.weights import After

CARD = Card(
    name="codistillation",
    title="Codistillation (online distillation from stale copies)",
    paper="Anil et al.: Large scale distributed neural network training through online distillation. "
    "ICLR 2018, arXiv 1804.03235",
    equation="per network i, after a burn-in: weight psi(mean_{j != i} p_j of stale copies, p_i), sum over "
    "classes, mean over the batch",
    catalogue_id="codistillation",
    knowledge="response",
    scheme="online",
    needs="no teacher; the peers are trained beside the student and thrown away",
    defaults=(
        "two networks, T = 1, weight 1, psi = cross-entropy and copies renewed every 50 steps, as in the "
        "paper; its burn-ins are numbers of steps per task, ours is a fifth of the training"
    ),
    cost="a forward and backward pass per peer, a forward pass per stale copy",
    deviations=(
        "the burn-in is a weight of zero, not a phase of its own: the learning rate goes on as in the paper",
        "all networks see the same batches; in the paper each has its own part of the data",
        "the terms rise in the burn-in, where they weigh nothing and the networks drift from stale copies",
    ),
    zero_at_match=False,
    num_teachers=0,
    composable=False,
    may_rise=("codistillation:student", "codistillation:peer1"),
)


class Settings(Config):
    """peers: beside the student, a number of networks like it or a list of {network, args}.

    burn_in: share of the training without distillation. every: steps between two renewals of the stale
    copies. psi: the distance. weight: of it.
    """

    peers: Peers = 1
    burn_in: float = Field(0.2, ge=0, lt=1)
    every: int = Field(50, ge=1)
    psi: Literal["ce", "kl"] = "ce"
    weight: float = Field(1.0, ge=0)


def _stale(role: str) -> str:
    return f"stale-{role}"


def stale_term(role: str, others: tuple[str, ...], settings: Settings) -> Term:
    """psi between the mean prediction of the others' stale copies and the role's own."""
    distance = soft_cross_entropy if settings.psi == "ce" else kl
    target = mean_of(tuple(map(_stale, others)))

    def compute(context: TermContext) -> Tensor:
        return distance(context.logits(role), target.compute(context, 1.0))

    needs = Needs(outputs={role: (LOGITS,), **target.outputs})
    return Term(f"codistillation:{role}", compute, needs, After(settings.weight, settings.burn_in))


def build(settings: Settings, roster: Roster) -> Program:
    live = cohort(settings.peers)
    names = tuple(live)
    terms = (
        *tasks(roster, names).values(),
        *(stale_term(role, others_of(role, names), settings) for role in names),
    )
    turn = Turn(tuple(Train(role) for role in names), terms)
    hooks = tuple(StaleCopy(_stale(role), of=role, every=settings.every) for role in names)
    roles = live | {_stale(role): CopyOf(role) for role in names}
    return Program(roles, (Phase("main", (turn,), hooks=hooks),))


METHOD = Method(CARD, Settings, build)
