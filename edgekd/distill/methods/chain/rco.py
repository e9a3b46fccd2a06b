"""Knowledge Distillation via Route Constrained Optimization, Jin et al., ICCV 2019 (arXiv 1904.09149).

The student follows checkpoints ("anchors") of a teacher's own training, from the earliest to the last:

phase 1:          a network like the teacher learns from labels; anchor i of n rests where
                  i / (n + 1) of the phase is done (the paper's equal-epoch-interval strategy)
phase 1 + i:      L = task_weight CE(y, z_s) + weight T^2 KL(p_anchor_i || p_s), the student going on
last phase:       the same with the given teacher
"""

from __future__ import annotations

from pydantic import Field

from edgekd.core.config import Config
from edgekd.distill.card import Card
from edgekd.distill.hooks import Snapshot
from edgekd.distill.method import Method, Roster
from edgekd.distill.methods.chain.links import from_labels, from_terms, task_terms
from edgekd.distill.methods.response.kd import kd_term
from edgekd.distill.program import CopyOf, Fresh, Given, Phase, Program, Role
from edgekd.distill.targets import mean_of

CARD = Card(
    name="rco",
    title="Route constrained optimization",
    paper="Jin et al.: Knowledge Distillation via Route Constrained Optimization. ICCV 2019, "
    "arXiv 1904.09149",
    equation="for every anchor in order: task_weight CE(y, z_s) + weight T^2 KL(p_anchor || p_s)",
    catalogue_id="rco",
    knowledge="response",
    scheme="chain",
    needs="one teacher; memory for `anchors` + 1 more networks of its size",
    defaults=(
        "T = 4, weight 0.9, task weight 0.1, as in `kd`; three anchors and the teacher; a quarter of the "
        "training for the route. The paper's own weights could not be checked"
    ),
    cost=(
        "the route takes `route_share` (a quarter) of the epochs and trains a network of the teacher's size; "
        "the student gets the rest in `anchors` + 1 equal parts, each with a forward pass of that size"
    ),
    deviations=(
        "a given model has no history, so the route is trained anew, from weights of its own, within the "
        "same epochs; its anchors lead to another solution than the given teacher, which follows them",
        "the paper's greedy search for anchors is left out: equal intervals only",
        "the paper trains each step to convergence; here the steps share the epochs, the learning rate "
        "and the momentum starting anew at every anchor",
    ),
    composable=False,
)
ROUTE = "route"


class Settings(Config):
    """anchors: n. route_share: of the training, spent on the route. temperature: T. weight: of the KL."""

    anchors: int = Field(3, ge=1)
    route_share: float = Field(0.25, gt=0, lt=1)
    temperature: float = Field(4.0, gt=0)
    weight: float = Field(0.9, ge=0)


def route(settings: Settings, roster: Roster, anchors: tuple[str, ...]) -> Phase:
    """The teacher's architecture learns from labels and leaves its anchors behind."""
    hooks = tuple(
        Snapshot(anchor, of=ROUTE, at=number / (len(anchors) + 1))
        for number, anchor in enumerate(anchors, start=1)
    )
    return from_labels(roster, ROUTE, share=settings.route_share, hooks=hooks)


def build(settings: Settings, roster: Roster) -> Program:
    anchors = tuple(f"anchor{number + 1}" for number in range(settings.anchors))
    steps = (*anchors, roster.teacher)
    task = task_terms(roster, roster.student, 0.1)
    share = (1 - settings.route_share) / len(steps)
    phases = [route(settings, roster, anchors)]
    for teacher in steps:
        target, name = mean_of((teacher,)), f"rco:{teacher}"
        term = kd_term(roster.student, target, settings.temperature, settings.weight, name)
        phases.append(from_terms(roster.student, (*task, term), share=share))
    roles: dict[str, Role] = {roster.student: Given(), roster.teacher: Given(), ROUTE: Fresh(roster.teacher)}
    return Program({**roles, **dict.fromkeys(anchors, CopyOf(ROUTE))}, tuple(phases))


METHOD = Method(CARD, Settings, build)
