"""The two sides of an adversarial game, on a discriminator's scores. Every value is a mean over the batch.

A score is a logit: sigmoid(score) is the probability that a sample is real (the teacher's). Scores may have
any shape with the batch first. Nothing is detached here: who learns is the turn's decision.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Deception = Literal["non-saturating", "minimax"]


def discrimination(real: Tensor, fake: Tensor) -> Tensor:
    """-mean log D(real) - mean log(1 - D(fake)), D = sigmoid: what a discriminator minimizes.

    Goodfellow et al. 2014, algorithm 1. It is 2 ln 2 where no score tells anything (all are 0).
    """
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def deception(fake: Tensor, form: Deception = "non-saturating") -> Tensor:
    """What the maker of the fakes minimizes: -mean log D(fake), or with `minimax` mean log(1 - D(fake)).

    Goodfellow et al. 2014, section 3: the first has the same fixed point and a gradient that does not vanish
    where the discriminator is sure.
    """
    return F.softplus(-fake).mean() if form == "non-saturating" else -F.softplus(fake).mean()
