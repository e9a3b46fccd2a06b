"""Where the median latencies of some rows stand on the scale that they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgekd.report.charts import LOG_FROM, Scale, Span, Tick, ends_of, padded, span, ticks
from edgekd.report.facts import Number
from edgekd.report.formatting import milliseconds


@dataclass(frozen=True)
class TimeAxis:
    """The median latencies of some rows on one scale; None for a row that has none."""

    ticks: tuple[Tick, ...]
    spans: tuple[Span | None, ...]


def time_axis(numbers: Sequence[Number | None]) -> TimeAxis | None:
    known = [one for one in numbers if one is not None and one.value and one.value > 0]
    if not known:
        return None
    ends = [end for one in known for end in ends_of(one)]
    log = max(ends) > LOG_FROM * min(ends)
    scale = Scale(min(ends) / 1.25, max(ends) * 1.25, True) if log else padded(ends, 0.06, least=0.0)
    return TimeAxis(ticks(scale, milliseconds, 2), tuple(span(one, scale) for one in numbers))
