"""The gate's words: limits, what became of each, and the verdict over all of them."""

from __future__ import annotations

import math
from typing import Literal

from edgekd.core.config import Config
from edgekd.core.measurement import Measurement, Quantity

Outcome = Literal["pass", "fail", "inconclusive"]

ANY_TARGET = "any"
"""The target of a limit on what does not depend on the device: the artifact's size."""

EXIT_CODES: dict[Outcome, int] = {"pass": 0, "fail": 1, "inconclusive": 3}


class Limit(Config):
    """One bound on one quantity of the final artifact, in the quantity's own unit (fractions, ms, bytes)."""

    quantity: Quantity
    target: str
    min: float | None = None
    max: float | None = None
    against: str | None = None
    """Name of the subject compared with (`teacher`, `student`, `release`), for paired quantities."""
    source: str = ""
    """How the recipe wrote it, for messages: `gate.accuracy_drop.max = 1.0pt`."""


def outcome_of(limit: Limit, low: float, high: float) -> Outcome:
    """Whether `[low, high]` is wholly inside the limit's closed legal region, wholly outside, or neither."""
    floor = -math.inf if limit.min is None else limit.min
    ceiling = math.inf if limit.max is None else limit.max
    if low >= floor and high <= ceiling:
        return "pass"
    return "fail" if high < floor or low > ceiling else "inconclusive"


class LimitResult(Config):
    """What became of one limit. `decide` says what would settle an inconclusive one."""

    limit: Limit
    outcome: Outcome
    reason: str
    decide: str | None = None
    measurement: Measurement | None = None
    finding: str | None = None
    """Name of what was found beside the limits; `limit` then bounds nothing."""


class Verdict(Config):
    """Fail if any limit fails, else inconclusive if any is, else pass. No limits: inconclusive."""

    outcome: Outcome
    results: tuple[LimitResult, ...]

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.outcome]
