"""Where the contributions of an ablation stand on the axis they share, with zero on it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgekd.report.charts import Span, Tick, padded, span, ticks
from edgekd.report.facts import AblationFact, Number
from edgekd.report.formatting import points


@dataclass(frozen=True)
class ContributionAxis:
    """`spans` has one entry a line of the ablation; None where nothing was measured."""

    ticks: tuple[Tick, ...]
    zero: float
    spans: tuple[Span | None, ...]


def contribution_axis(ablation: AblationFact) -> ContributionAxis:
    """In points of accuracy: what bought something stands right of zero."""
    gains = [line.gain for line in ablation.lines]
    scale = padded([0.0, *(end for gain in gains if gain is not None for end in _ends(gain))], 0.06)
    return ContributionAxis(
        ticks=ticks(scale, lambda value: points(value, plus=True), 3),
        zero=scale.at(0.0),
        spans=tuple(span(gain, scale) for gain in gains),
    )


def _ends(gain: Number) -> list[float]:
    known = [value for value in (gain.value, gain.low, gain.high) if value is not None]
    return [value for value in known if math.isfinite(value)]
