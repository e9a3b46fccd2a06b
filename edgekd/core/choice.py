"""The record of a choice among artifacts: written by the stage that chose, read by reports."""

from __future__ import annotations

from edgekd.core.config import Config
from edgekd.core.measurement import Quantity
from edgekd.core.verdict import Outcome

CHOICE = "choice"
"""Where a step keeps it among what it measured."""


class HeldLimit(Config):
    """What validation data say of one limit. `value`, `low` and `high` are in the quantity's own unit."""

    limit: str
    """As the recipe wrote it."""
    quantity: Quantity
    target: str
    outcome: Outcome
    value: float
    low: float | None = None
    high: float | None = None


class Candidate(Config):
    """One artifact that might have shipped."""

    name: str
    standing: Outcome
    """The worst of its limits."""
    limits: tuple[HeldLimit, ...] = ()
    val_accuracy: float
    """A fraction; the lowest over the targets."""
    size_bytes: int
    p50_ms: dict[str, float]
    """By target; good for ranking, never for a verdict."""
    slowness: float
    """Its time over the shortest one, on the target where that is most."""


class ChoiceRecord(Config):
    """What was chosen, among what, and why."""

    winner: str
    reason: str
    num_images: int
    """Of validation data."""
    protocol: str
    certain: bool
    """Whether a limit counts as kept only where its whole interval is inside."""
    candidates: tuple[Candidate, ...]
    """The fastest first."""
    absent: dict[str, str] = {}
    """Those that did not run everywhere, and why."""
    not_asked: tuple[str, ...] = ()
    """Limits that only the final session can speak of."""
