"""Learning-rate schedules: pure functions from the share of training done to a factor of the peak rate."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat

from edgekd.core.config import Config

Fraction = Annotated[float, Field(ge=0, le=1)]


def constant(fraction: float) -> float:
    """1 throughout."""
    return 1.0


def cosine(fraction: float, *, warmup: float = 0.0, final: float = 0.0) -> float:
    """Linear from 0 to 1 over `warmup`, then half a cosine from 1 to `final`.

    Loshchilov & Hutter 2017 (arXiv 1608.03983), equation 5 without restarts:
    final + (1 - final) (1 + cos(pi t)) / 2, t in [0, 1] over what follows the warm-up.
    """
    if fraction < warmup:
        return fraction / warmup
    t = (fraction - warmup) / (1 - warmup) if warmup < 1 else 1.0
    return _half_cosine(1.0, final, t)


def one_cycle(fraction: float, *, peak: float = 0.3, start: float = 1 / 25, final: float = 4e-6) -> float:
    """Half a cosine from `start` up to 1 at `peak`, another down to `final`.

    Smith & Topin 2018 (arXiv 1708.07120) as `torch.optim.lr_scheduler.OneCycleLR` has it by default.
    """
    if fraction < peak:
        return _half_cosine(start, 1.0, fraction / peak)
    return _half_cosine(1.0, final, (fraction - peak) / (1 - peak) if peak < 1 else 1.0)


def step(fraction: float, *, milestones: tuple[float, ...] = (0.5, 0.75), gamma: float = 0.1) -> float:
    """`gamma` to the number of milestones that have been reached (He et al. 2016: 1/2 and 3/4)."""
    return float(gamma ** sum(fraction >= milestone for milestone in milestones))


def _half_cosine(begin: float, end: float, t: float) -> float:
    return end + (begin - end) * (1 + math.cos(math.pi * t)) / 2


class ScheduleConfig(Config):
    """A schedule and its settings; each setting belongs to the schedules named beside it."""

    name: Literal["cosine", "one_cycle", "step", "constant"] = "cosine"
    warmup: Fraction = 0.0
    """cosine: share of the training spent on the linear warm-up."""
    final: Annotated[float, Field(ge=0)] = 0.0
    """cosine, one_cycle: the factor at the end."""
    peak: Fraction = 0.3
    """one_cycle: share of the training before the peak."""
    start: PositiveFloat = 1 / 25
    """one_cycle: the factor at the start."""
    milestones: tuple[Fraction, ...] = (0.5, 0.75)
    """step: shares of the training at which the rate drops."""
    gamma: PositiveFloat = 0.1
    """step: what it drops by."""

    def factor(self, fraction: float) -> float:
        """The factor when `fraction` in [0, 1] of the training is done."""
        match self.name:
            case "cosine":
                return cosine(fraction, warmup=self.warmup, final=self.final)
            case "one_cycle":
                return one_cycle(fraction, peak=self.peak, start=self.start, final=self.final)
            case "step":
                return step(fraction, milestones=self.milestones, gamma=self.gamma)
            case "constant":
                return constant(fraction)
