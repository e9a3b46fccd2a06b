"""The history as text: a block per series with its sparkline, a line per measurement and what changed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import typer

from edgekd.pipeline.history.change import Change
from edgekd.pipeline.history.series import Series, Step
from edgekd.report.formatting import NAMES, moment, points, show, signed_text
from edgekd.report.render import encodable
from edgekd.report.terminal import printable

_BARS = "▁▂▃▄▅▆▇█"
_GAP = "·"
_COLORS = {"better": typer.colors.GREEN, "worse": typer.colors.RED}
_SHOWN_CHARACTERS = 12


def table(title: str, series: Sequence[Series]) -> Iterator[str]:
    """The lines of a whole history."""
    for one in series:
        against = f" against {one.against}" if one.against else ""
        head = f"{title}: {NAMES[one.quantity]} of {one.row}{against} on {one.target}"
        bars = sparkline([step.point.kept.value for step in one.steps]) if len(one.steps) > 1 else ""
        yield _clean(f"{head}  {bars}".rstrip())
        cells = [_cells(step) for step in one.steps]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for step, line in zip(one.steps, cells, strict=True):
            told = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            yield f"  {_clean(told)}".rstrip()
            if step.change is not None:
                yield f"      {_changed(step.change)}"
            yield from (f"      device: {_clean(change)}" for change in step.device)
        yield ""
    if any(not step.point.kept.validity.valid for one in series for step in one.steps):
        yield "!  may not be judged; --json says why"


def summary_line(series: Sequence[Series]) -> str:
    """How the newest measurements compare with those before them."""
    latest = Counter(one.latest.outcome if one.latest else "nothing to compare with" for one in series)
    counts = ", ".join(f"{count} {outcome}" for outcome, count in latest.items())
    return f"newest against the one before: {counts or 'nothing measured'}"


def sparkline(values: Sequence[float | None]) -> str:
    """One bar a value from the least to the greatest; a dot where there is none."""
    present = [value for value in values if value is not None and math.isfinite(value)]
    low, high = (min(present), max(present)) if present else (0.0, 0.0)
    return "".join(_bar(value, low, high) for value in values)


def _bar(value: float | None, low: float, high: float) -> str:
    if value is None or not math.isfinite(value):
        return _GAP
    place = (value - low) / (high - low) if high > low else 0.5
    return _BARS[min(len(_BARS) - 1, int(place * len(_BARS)))]


def _cells(step: Step) -> list[str]:
    entry, kept = step.point.entry, step.point.kept
    value, interval = "not measured", ""
    if kept.value is not None:
        value = show(kept.quantity, kept.value) + ("" if kept.validity.valid else " !")
    if kept.interval is not None:
        ends = [show(kept.quantity, end) for end in (kept.interval.low, kept.interval.high)]
        interval = f"{ends[0]} to {ends[1]}"
    digest = step.point.subject.digest[:_SHOWN_CHARACTERS]
    return [moment(entry.taken_at), entry.kind, digest, value, interval]


def _changed(change: Change) -> str:
    """`worse +5.0 % (+3.1 % to +7.0 %): ...`."""
    numbers = ""
    if change.value is not None and change.value != (1.0 if change.form == "ratio" else 0.0):
        numbers = f" {_amount(change, change.value)}"
        if change.interval is not None:
            low, high = change.interval.low, change.interval.high
            numbers += f" ({_amount(change, low)} to {_amount(change, high)})"
    outcome = typer.style(change.outcome, fg=_COLORS.get(change.outcome))
    return f"{outcome}{numbers}: {_clean(change.why)}"


def _amount(change: Change, value: float) -> str:
    if change.form == "difference":
        return points(value, plus=True)
    return f"{signed_text(f'{(value - 1) * 100:+.1f}')} %"


def _clean(text: str) -> str:
    return encodable(printable(text))
