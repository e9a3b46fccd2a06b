"""Training curves, from the epoch events of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from edgekd.report.facts import Curve
from edgekd.report.reading import Source


def curves_of(source: Source) -> tuple[Curve, ...]:
    """One curve per step in the order of first mention; of an epoch told twice (after a resume) the last."""
    by_step: dict[str, dict[int, dict[str, Any]]] = {}
    for event in source.events:
        epoch = event.get("epoch")
        if event.get("event") == "epoch" and isinstance(epoch, int) and not isinstance(epoch, bool):
            by_step.setdefault(str(event.get("step", "")), {})[epoch] = event
    return tuple(_curve(step, epochs) for step, epochs in by_step.items())


def _curve(step: str, epochs: dict[int, dict[str, Any]]) -> Curve:
    numbers = sorted(epochs)
    events = [epochs[number] for number in numbers]
    trained = [event["train"] if isinstance(event.get("train"), dict) else {} for event in events]
    names = dict.fromkeys(str(name) for terms in trained for name in terms)
    return Curve(
        step=step,
        epochs=tuple(numbers),
        val_accuracy=_finite([event.get("val_accuracy") for event in events]),
        terms={name: _finite([terms.get(name) for terms in trained]) for name in names},
    )


def _finite(values: Sequence[object]) -> tuple[float | None, ...]:
    return tuple(
        float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        else None
        for value in values
    )
