"""Weights of terms: a number, or a function of the fraction of the phase that is done."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol


class WeightSchedule(Protocol):
    """`fraction` in [0, 1) of the phase -> weight."""

    def __call__(self, fraction: float) -> float: ...


Weight = float | WeightSchedule


def weight_at(weight: Weight, fraction: float) -> float:
    """The value of a weight when `fraction` of the phase is done."""
    return weight if isinstance(weight, int | float) else weight(fraction)


@dataclass(frozen=True)
class Linear:
    """From `start` to `end` over the phase."""

    start: float
    end: float

    def __call__(self, fraction: float) -> float:
        return self.start + (self.end - self.start) * fraction


@dataclass(frozen=True)
class RampUp:
    """`weight * exp(-5 (1 - fraction / over)^2)` until `over`, then `weight` (Laine & Aila 2017)."""

    weight: float
    over: float

    def __call__(self, fraction: float) -> float:
        done = min(1.0, fraction / self.over)
        return self.weight * math.exp(-5.0 * (1.0 - done) ** 2)


@dataclass(frozen=True)
class WarmUp:
    """Linearly from zero to `weight` until `over` of the phase is done, then `weight`."""

    weight: float
    over: float

    def __call__(self, fraction: float) -> float:
        return self.weight * min(1.0, fraction / self.over) if self.over else self.weight


@dataclass(frozen=True)
class After:
    """Zero until `fraction` of the phase is done, then `weight` (distillation after a burn-in)."""

    weight: float
    fraction: float

    def __call__(self, fraction: float) -> float:
        return self.weight if fraction >= self.fraction else 0.0


@dataclass(frozen=True)
class Until:
    """`weight` while less than `fraction` of the phase is done, then zero (early-stopped distillation)."""

    weight: float
    fraction: float

    def __call__(self, fraction: float) -> float:
        return self.weight if fraction < self.fraction else 0.0
