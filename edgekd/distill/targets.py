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
    """`compute(context, temperature)` -> probabilities [B, C]; `outputs` is what it reads."""

    compute: Callable[[TermContext, float], Tensor]
    outputs: Mapping[str, tuple[str, ...]]


def mean_of(roles: tuple[str, ...]) -> Target:
    """The mean of the roles' softened probabilities (Hinton et al. 2015 for ensembles), without gradient."""

    def compute(context: TermContext, temperature: float) -> Tensor:
        softened = [F.softmax(context.logits(role).detach() / temperature, dim=1) for role in roles]
        return torch.stack(softened).mean(dim=0)

    return Target(compute, dict.fromkeys(roles, (LOGITS,)))
