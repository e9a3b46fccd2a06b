"""Data-free methods read no labels, so a recipe cannot weigh them."""

from __future__ import annotations

from edgekd.core.errors import UsageError
from edgekd.distill.method import Roster


def refuse_labels(roster: Roster) -> None:
    """Raise `UsageError` if the recipe asks for a cross-entropy with labels that nobody reads."""
    if roster.task.weight or roster.task.label_smoothing:
        raise UsageError(
            "is data-free: it reads no label, so `task_weight` and `label_smoothing` have no effect",
            fix="leave them out",
        )
