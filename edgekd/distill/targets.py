"""What a student's logits are compared with: combinations of other roles' outputs.

A target is probabilities [B, C] at a temperature. `Target.outputs` goes into the needs of the term using it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from edgekd.distill.context import TermContext
from edgekd.distill.program import LOGITS


@dataclass(frozen=True)
class Target:
    """`compute(context, temperature)` -> probabilities [B, C]; it reads `outputs` and perhaps the labels."""

    compute: Callable[[TermContext, float], Tensor]
    outputs: Mapping[str, tuple[str, ...]]
    labels: bool = False


def mean_of(roles: tuple[str, ...]) -> Target:
    """The mean of the roles' softened probabilities (Hinton et al. 2015 for ensembles), without gradient."""

    def compute(context: TermContext, temperature: float) -> Tensor:
        softened = [F.softmax(context.logits(role).detach() / temperature, dim=1) for role in roles]
        return torch.stack(softened).mean(dim=0)

    return Target(compute, dict.fromkeys(roles, (LOGITS,)))


def geometric_mean_of(roles: tuple[str, ...]) -> Target:
    """The normalized geometric mean of the roles' softened probabilities, without gradient.

    It is the softmax of the mean of their logits (Hinton et al. 2015, section 1, names both means).
    """

    def compute(context: TermContext, temperature: float) -> Tensor:
        logits = [context.logits(role).detach() for role in roles]
        return F.softmax(torch.stack(logits).mean(dim=0) / temperature, dim=1)

    return Target(compute, dict.fromkeys(roles, (LOGITS,)))


def right_or_label(role: str) -> Target:
    """Per sample: the role's softened probabilities where its answer is the label, else the label itself.

    Meng et al. 2019 (conditional teacher-student learning); without gradient.
    """

    def compute(context: TermContext, temperature: float) -> Tensor:
        logits = context.logits(role).detach()
        right = logits.argmax(dim=1) == context.labels
        labels = F.one_hot(context.labels, logits.shape[1]).to(logits.dtype)
        return torch.where(right[:, None], F.softmax(logits / temperature, dim=1), labels)

    return Target(compute, {role: (LOGITS,)}, labels=True)


def virtual_teacher(like: str, correct: float) -> Target:
    """softmax(u / T) of u = `correct` for the label and (1 - correct) / (C - 1) for every other class.

    Yuan et al. 2020 (Tf-KD, the authors' code): the designed probabilities u are used as logits, so at T = 20
    the target is nearly uniform. C is the number of classes of the role `like`.
    """

    def compute(context: TermContext, temperature: float) -> Tensor:
        labels, logits = context.labels, context.logits(like)
        others = (1.0 - correct) / (logits.shape[1] - 1)
        designed = torch.full_like(logits, others)
        designed = designed.scatter(1, labels[:, None], correct)
        return F.softmax(designed / temperature, dim=1)

    return Target(compute, {like: (LOGITS,)}, labels=True)
