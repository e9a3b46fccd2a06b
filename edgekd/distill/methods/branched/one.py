"""Knowledge Distillation by On-the-Fly Native Ensemble, Lan, Zhu, Gong, NeurIPS 2018 (arXiv 1806.04606),
section 3.

    z_e = sum_i g_i z_i,   g = softmax(ReLU(BN(FC(pooled shared features))))
    L = sum_i CE(y, z_i) + CE(y, z_e) + w(t) sum_i T^2 KL(softmax(z_e / T) || softmax(z_i / T))

for m branches that share the network's lower stages; w(t) = weight exp(-5 (1 - t / ramp_up)^2).
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from edgekd.core.config import Config
from edgekd.core.errors import UsageError
from edgekd.distill.branches import as_plain_network, branch_tap, branch_tasks, branched, split_point
from edgekd.distill.card import Card
from edgekd.distill.context import TermContext
from edgekd.distill.heads import without_heads
from edgekd.distill.kernels.regress import as_map
from edgekd.distill.kernels.respond import kl
from edgekd.distill.method import Method, Roster
from edgekd.distill.program import (
    Deploy,
    Derived,
    Given,
    Head,
    Needs,
    Phase,
    Program,
    Shapes,
    StateDict,
    Term,
    student_turn,
)
from edgekd.distill.weights import RampUp
from edgekd.networks.tap import Tap

CARD = Card(
    name="one",
    title="On-the-fly native ensemble",
    paper="Lan, Zhu, Gong: Knowledge Distillation by On-the-Fly Native Ensemble. NeurIPS 2018, "
    "arXiv 1806.04606",
    equation="w(t) sum_i T^2 KL(softmax(z_e / T) || softmax(z_i / T)), sum over classes, mean over the "
    "batch; z_e = sum_i g_i z_i",
    catalogue_id="one",
    knowledge="response",
    scheme="online",
    needs="no teacher; a student that torch.fx can trace, with two stage taps or `tap:`",
    defaults=(
        "three branches of the last stage, T = 3, weight 1 with a ramp-up over 80 of 300 epochs, task weight "
        "1 for every branch and for the ensemble, as in the authors' code"
    ),
    cost="the last stage and the classifier once more per branch, forward and backward; a gate [C, m]",
    deviations=(
        "the gate is FC, batch norm, ReLU, softmax as in the authors' code; surveys print the softmax alone",
        "the ensemble is detached as a target, as in the code, which also adds 1e-7 to its probabilities",
        "branch 1 keeps the student's starting weights and is deployed; the others start from their own",
        "untrained branches agree, so the imitation starts near zero and rises while its weight ramps up",
    ),
    zero_at_match=False,
    num_teachers=0,
    composable=False,
    may_rise=("one",),
)

BRANCHED, ENSEMBLE = "branched", "ensemble"


class Settings(Config):
    """branches: m. tap: where the student splits; by default behind its last stage but one.

    temperature: T. weight: the largest w. ramp_up: share of the training until it is reached.
    """

    branches: int = Field(3, ge=2)
    tap: str | None = None
    temperature: float = Field(3.0, gt=0)
    weight: float = Field(1.0, ge=0)
    ramp_up: float = Field(80 / 300, gt=0, le=1)


class Ensemble(nn.Module):
    """The gated sum of the branches' logits: features [B, C, H, W] or [B, C], m times [B, K] -> [B, K]."""

    def __init__(self, in_channels: int, num_branches: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(
            OrderedDict(
                linear=nn.Linear(in_channels, num_branches),
                norm=nn.BatchNorm1d(num_branches),
                relu=nn.ReLU(),
                softmax=nn.Softmax(dim=1),
            )
        )

    def forward(self, features: Tensor, *logits: Tensor) -> Tensor:
        if self.training and len(features) == 1:
            raise UsageError(
                "the gate normalizes over the batch, which holds one image", fix="take a batch of two or more"
            )
        gates: Tensor = self.gate(as_map(features).mean(dim=(2, 3)))
        return (gates[:, :, None] * torch.stack(logits, dim=1)).sum(dim=1)


def ensemble_head(tap: str, num_branches: int) -> Head:
    """The tap `ensemble` (its logits) and within it `ensemble:gate` [B, m]."""

    def build(shapes: Shapes) -> nn.Module:
        return Ensemble(shapes[BRANCHED, tap][0], num_branches)

    logits = tuple(branch_tap(number) for number in range(1, num_branches + 1))
    return Head((tap, *logits), build, {"gate": Tap("gate")})


def deployed(state: StateDict) -> StateDict:
    return as_plain_network(without_heads(state))


def build(settings: Settings, roster: Roster) -> Program:
    point = split_point(roster, settings.tap)
    branches = tuple(branch_tap(number) for number in range(1, settings.branches + 1))

    def compute(context: TermContext) -> Tensor:
        ensemble = context.tap(BRANCHED, ENSEMBLE).detach()
        target = F.softmax(ensemble / settings.temperature, dim=1)
        logits = [context.tap(BRANCHED, branch) for branch in branches]
        return torch.stack([kl(own, target, settings.temperature) for own in logits]).sum()

    tasks = branch_tasks(roster, BRANCHED, settings.branches)
    ensemble_task = roster.task.term(BRANCHED, name=f"task:{ENSEMBLE}", tap=ENSEMBLE)
    needs = Needs(outputs={BRANCHED: (*branches, ENSEMBLE)})
    imitation = Term("one", compute, needs, RampUp(settings.weight, settings.ramp_up))
    derived = Derived(
        roster.student,
        transform=lambda student: branched(student, point, settings.branches),
        heads={ENSEMBLE: ensemble_head(point, settings.branches)},
    )
    return Program(
        {roster.student: Given(), BRANCHED: derived},
        (Phase("main", (student_turn((*tasks, ensemble_task, imitation), BRANCHED),)),),
        Deploy(BRANCHED, roster.student, deployed),
    )


METHOD = Method(CARD, Settings, build)
