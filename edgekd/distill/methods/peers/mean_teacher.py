"""Mean teachers are better role models, Tarvainen & Valpola, NeurIPS 2017 (arXiv 1703.01780), section 2.

    L = CE(y, z) + w(t) ||softmax(z(x)) - softmax(z'(x2))||^2,   theta' = d theta' + (1 - d) theta

x and x2 are two augmentations of the same images, z' comes from averaged weights and carries no gradient,
w(t) = weight exp(-5 (1 - t / ramp_up)^2). The squared norm is a sum over classes, the mean is over images.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from edgekd.core.config import Config
from edgekd.distill.card import Card
from edgekd.distill.context import TermContext
from edgekd.distill.hooks import Ema
from edgekd.distill.method import Method, Roster
from edgekd.distill.program import (
    LOGITS,
    CopyOf,
    Deploy,
    Given,
    Needs,
    Phase,
    Program,
    Role,
    Term,
    Train,
    Turn,
)
from edgekd.distill.sources import Beside, Labeled
from edgekd.distill.weights import RampUp

CARD = Card(
    name="mean-teacher",
    title="Mean teacher",
    paper="Tarvainen, Valpola: Mean teachers are better role models. NeurIPS 2017, arXiv 1703.01780",
    equation="w(t) ||softmax(z) - softmax(z')||^2, sum over classes, mean over all images, labeled and not",
    catalogue_id="mean-teacher",
    knowledge="response",
    scheme="self",
    needs="no teacher; two augmented views of the batch; with `unlabeled: true` a stream of unlabeled images",
    defaults=(
        "weight 10: the code's 100 on CIFAR-10, where its mean over 10 classes is 1/10 of our sum; for C "
        "classes the code's 100 is 100 / C here. Ramp-up over 4/15 of the training (40,000 of 150,000 "
        "steps), decay 0.999. With n of N images labeled the paper's ConvNet runs scale the weight by n / N"
    ),
    cost="a forward pass of the averaged network; with `unlabeled` also both networks on those images",
    deviations=(
        "the averaged network is deployed, as the paper reports it",
        "decay starts as (1 + n) / (10 + n) at step n, in the authors' PyTorch code as 1 - 1 / n, in their "
        "TensorFlow code at 0.99 during the ramp-up",
        "the averaged network predicts in training mode, as in the authors' code; here its batch-norm "
        "statistics also follow the student's",
        "the code divides the cross-entropy by labeled and unlabeled images, we by the labeled ones; its "
        "batch norm sees both kinds in one batch, ours in two",
        "no second output (`logit_distance_cost`) and no input noise beside the augmentation",
        "an untrained network is consistent, so the term starts near zero and rises before it falls",
    ),
    num_teachers=0,
    composable=False,
    may_rise=("mean-teacher",),
)

AVERAGE = "average"
_UNLABELED = "unlabeled"


class Settings(Config):
    """weight: the largest w. ramp_up: share of the training until it is reached. decay: d.

    unlabeled: the consistency also holds on the stream `unlabeled`.
    """

    weight: float = Field(10.0, ge=0)
    ramp_up: float = Field(4 / 15, gt=0, le=1)
    decay: float = Field(0.999, gt=0, lt=1)
    unlabeled: bool = False


def inconsistency(logits: Tensor, averaged_logits: Tensor) -> Tensor:
    """||softmax(a) - softmax(b)||^2, both [B, C]: sum over classes, mean over the batch."""
    difference = F.softmax(logits, dim=1) - F.softmax(averaged_logits, dim=1)
    return difference.pow(2).sum(dim=1).mean()


def build(settings: Settings, roster: Roster) -> Program:
    pairs = [("x", "x2")]
    if settings.unlabeled:
        pairs.append((f"{_UNLABELED}:x", f"{_UNLABELED}:x2"))

    def compute(context: TermContext) -> Tensor:
        student = torch.cat([context.logits(roster.student, view) for view, _ in pairs])
        average = torch.cat([context.logits(AVERAGE, view) for _, view in pairs])
        return inconsistency(student, average)

    views = tuple(view for pair in pairs for view in pair)
    needs = Needs(outputs={roster.student: (LOGITS,), AVERAGE: (LOGITS,)}, views=views)
    consistency = Term("mean-teacher", compute, needs, RampUp(settings.weight, settings.ramp_up))
    turn = Turn(
        (Train(roster.student),),
        (roster.task.term(roster.student), consistency),
        source=Beside(_UNLABELED) if settings.unlabeled else Labeled(),
        modes={AVERAGE: "train"},
    )
    phase = Phase("main", (turn,), hooks=(Ema(AVERAGE, of=roster.student, decay=settings.decay),))
    roles: dict[str, Role] = {roster.student: Given(), AVERAGE: CopyOf(roster.student)}
    return Program(roles, (phase,), Deploy(role=AVERAGE))


METHOD = Method(CARD, Settings, build)
