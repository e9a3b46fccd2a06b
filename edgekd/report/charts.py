"""The geometry of charts: where things stand, in percent of the plot, for templates that only draw.

Charts are HTML boxes and stretched SVG lines, so that text keeps its size at every width and needs no script.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from edgekd.report.facts import ClassRow, Curve, Distribution, LimitFact, Number, TargetFact, WaterfallRow
from edgekd.report.formatting import milliseconds, percent, short, show, significant

LOG_FROM = 4.0
"""Latencies that differ by more than this factor are drawn on a logarithm."""


@dataclass(frozen=True)
class Scale:
    """Maps values to percent of an axis."""

    low: float
    high: float
    log: bool = False

    def at(self, value: float) -> float:
        """Position in [0, 100], rounded for short output."""
        low, high, value = (math.log(max(v, 1e-300)) if self.log else v for v in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return round(100 * min(1.0, max(0.0, share)), 2)

    def ticks(self, count: int = 4) -> list[float]:
        """Round values inside the axis, about `count` of them."""
        return _log_ticks(self, count) if self.log else _linear_ticks(self.low, self.high, count)


def _linear_ticks(low: float, high: float, count: int) -> list[float]:
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(scale: Scale, count: int) -> list[float]:
    """1, 2, 5 of each power of ten, thinned to the powers when there are many; linear over a short span."""
    powers = range(math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [m * 10.0**p for p in powers for m in factors if scale.low <= m * 10.0**p <= scale.high]
        if 2 <= len(ticks) <= count + 2:
            return ticks
    return _linear_ticks(scale.low, scale.high, count)


def padded(
    values: Iterable[float], share: float, *, least: float | None = None, most: float | None = None
) -> Scale:
    """A linear scale around the values with a margin of `share` of their span, kept within the bounds."""
    known = list(values)
    low, high = min(known), max(known)
    span = (high - low) or abs(high) * 0.2 or 1.0
    low, high = low - share * span, high + share * span
    low = max(low, least) if least is not None else low
    return Scale(low, min(high, most) if most is not None else high)


@dataclass(frozen=True)
class Tick:
    at: float
    text: str


def ticks(scale: Scale, text: Callable[[float], str], count: int = 4) -> tuple[Tick, ...]:
    return tuple(Tick(scale.at(value), short(text(value))) for value in scale.ticks(count))


@dataclass(frozen=True)
class Span:
    """A value with its interval on an axis; `low` and `high` are equal when there is no interval."""

    low: float
    at: float
    high: float

    @property
    def width(self) -> float:
        return round(self.high - self.low, 2)


def span(number: Number | None, scale: Scale) -> Span | None:
    if number is None or number.value is None or not math.isfinite(number.value):
        return None
    low, high = ends_of(number)
    return Span(scale.at(low), scale.at(number.value), scale.at(high))


def ends_of(number: Number) -> tuple[float, float]:
    value = number.value if number.value is not None else 0.0
    return (value if number.low is None else number.low, value if number.high is None else number.high)


@dataclass(frozen=True)
class Bound:
    at: float
    text: str


_SHARES = ("accuracy", "macro_recall", "worst_class_recall", "agreement", "host_agreement", "new_errors")
"""Quantities that no axis shows beyond 0 and 1."""


@dataclass(frozen=True)
class LimitBar:
    """An interval against its limit: `inside` is the allowed stretch (start, width)."""

    span: Span | None
    bounds: tuple[Bound, ...]
    inside: tuple[float, float]
    ticks: tuple[Tick, ...]


def limit_bar(limit: LimitFact) -> LimitBar | None:
    """None when there is nothing to place on an axis."""
    bounds = [bound for bound in (limit.minimum, limit.maximum) if bound is not None]
    number = limit.number
    values = [*bounds]
    if number is not None and number.value is not None and math.isfinite(number.value):
        values += [number.value, *ends_of(number)]
    if not values or not bounds:
        return None
    free = limit.quantity == "accuracy_drop"
    share = limit.quantity in _SHARES
    scale = padded(values, 0.3, least=None if free else 0.0, most=1.0 if share else None)
    start = scale.at(limit.minimum) if limit.minimum is not None else 0.0
    end = scale.at(limit.maximum) if limit.maximum is not None else 100.0
    return LimitBar(
        span=span(number, scale),
        bounds=tuple(Bound(scale.at(bound), show(limit.quantity, bound)) for bound in bounds),
        inside=(start, round(max(0.0, end - start), 2)),
        ticks=ticks(scale, lambda value: show(limit.quantity, value)),
    )


@dataclass(frozen=True)
class AccuracyAxis:
    """The shared axis of a waterfall's accuracies."""

    ticks: tuple[Tick, ...]
    spans: tuple[Span | None, ...]
    teacher: float | None


def accuracy_axis(rows: Sequence[WaterfallRow]) -> AccuracyAxis | None:
    numbers = [row.numbers.get("accuracy") for row in rows]
    known = [one for one in numbers if one is not None and one.value is not None and math.isfinite(one.value)]
    if not known:
        return None
    scale = padded([end for one in known for end in ends_of(one)], 0.06, least=0.0, most=1.0)
    first = span(numbers[0], scale)
    return AccuracyAxis(
        ticks=ticks(scale, _plain_percent, 3),
        spans=tuple(span(one, scale) for one in numbers),
        teacher=first.at if first else None,
    )


def _plain_percent(fraction: float) -> str:
    return f"{round(fraction * 100, 4):g} %"


@dataclass(frozen=True)
class Mark:
    """One point of the Pareto plot with its two intervals."""

    position: int
    title: str
    x: Span
    y: Span
    kind: str
    text: str


@dataclass(frozen=True)
class Pareto:
    """Accuracy over median latency on one target; `front` joins the rows that no other row beats in both."""

    target: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    marks: tuple[Mark, ...]
    front: str
    log: bool


def pareto(target: TargetFact) -> Pareto | None:
    """None with fewer than two rows that have both numbers."""
    points = [(row, latency, accuracy) for row in target.rows for latency, accuracy in _both(row)]
    if len(points) < 2:
        return None
    times = [end for _, latency, _ in points for end in ends_of(latency)]
    log = max(times) > LOG_FROM * min(times)
    x = Scale(min(times) / 1.25, max(times) * 1.25, True) if log else padded(times, 0.12, least=0.0)
    y = padded([end for _, _, accuracy in points for end in ends_of(accuracy)], 0.1, least=0.0, most=1.0)
    values = [(latency.value or 0.0, accuracy.value or 0.0) for _, latency, accuracy in points]
    return Pareto(
        target=target.name,
        x_ticks=ticks(x, milliseconds),
        y_ticks=ticks(y, _plain_percent),
        marks=tuple(_mark(row, latency, accuracy, x, y) for row, latency, accuracy in points),
        front=" ".join(f"{x.at(time)},{round(100 - y.at(share), 2)}" for time, share in front(values)),
        log=log,
    )


def _both(row: WaterfallRow) -> Iterable[tuple[Number, Number]]:
    latency, accuracy = row.numbers.get("p50"), row.numbers.get("accuracy")
    if latency and accuracy and latency.value and accuracy.value is not None and latency.value > 0:
        yield latency, accuracy


def _mark(row: WaterfallRow, latency: Number, accuracy: Number, x: Scale, y: Scale) -> Mark:
    across, up = span(latency, x), span(accuracy, y)
    assert across is not None
    assert up is not None
    return Mark(
        position=row.position,
        title=row.title,
        x=across,
        y=up,
        kind="final" if row.final else row.role,
        text=f"{percent(accuracy.value or 0.0)} · {milliseconds(latency.value or 0.0)}",
    )


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (time, accuracy) pairs that no other pair equals or beats in both, by time."""
    best: list[tuple[float, float]] = []
    for time, share in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or share > best[-1][1]:
            best.append((time, share))
    return best


@dataclass(frozen=True)
class Line:
    name: str
    color: int
    points: str
    last: str


@dataclass(frozen=True)
class LineChart:
    """Values over epochs."""

    title: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[Line, ...]


def accuracy_chart(curves: Sequence[Curve]) -> LineChart | None:
    """Validation accuracy of every trained step."""
    series = {curve.step: tuple(zip(curve.epochs, curve.val_accuracy, strict=True)) for curve in curves}
    return _line_chart("Validation accuracy", series, _plain_percent, percent)


def term_charts(curves: Sequence[Curve]) -> tuple[LineChart, ...]:
    """The training terms of each step."""
    charts = []
    for curve in curves:
        series = {name: tuple(zip(curve.epochs, values, strict=True)) for name, values in curve.terms.items()}
        charts.append(_line_chart(f"Loss terms of {curve.step}", series, significant, significant))
    return tuple(chart for chart in charts if chart is not None)


Series = tuple[tuple[int, float | None], ...]


def _line_chart(
    title: str, series: dict[str, Series], tick: Callable[[float], str], last: Callable[[float], str]
) -> LineChart | None:
    known = {name: [(x, y) for x, y in points if y is not None] for name, points in series.items()}
    known = {name: points for name, points in known.items() if points}
    if not known:
        return None
    epochs = [x for points in known.values() for x, _ in points]
    x = Scale(min(epochs), max(epochs))
    y = padded([value for points in known.values() for _, value in points], 0.06)
    lines = [
        Line(
            name=name,
            color=index % 6,
            points=" ".join(f"{x.at(epoch)},{round(100 - y.at(value), 2)}" for epoch, value in points),
            last=last(points[-1][1]),
        )
        for index, (name, points) in enumerate(known.items())
    ]
    whole = [value for value in x.ticks(4) if value == int(value)]
    return LineChart(
        title=title,
        x_ticks=tuple(Tick(x.at(value), f"{int(value)}") for value in whole),
        y_ticks=ticks(y, tick),
        lines=tuple(lines),
    )


@dataclass(frozen=True)
class Ridge:
    position: int
    title: str
    area: str
    p50: float
    p90: float
    text: str


@dataclass(frozen=True)
class RidgeChart:
    """Latency distributions of one target under one another, each to its own height."""

    target: str
    ticks: tuple[Tick, ...]
    ridges: tuple[Ridge, ...]


def ridge_charts(distributions: Sequence[Distribution]) -> tuple[RidgeChart, ...]:
    targets = dict.fromkeys(one.target for one in distributions)
    return tuple(_ridge_chart([one for one in distributions if one.target == target]) for target in targets)


def _ridge_chart(rows: Sequence[Distribution]) -> RidgeChart:
    scale = Scale(rows[0].edges_ms[0], rows[0].edges_ms[-1], log=True)
    ridges = tuple(
        Ridge(
            position=row.position,
            title=row.title,
            area=_area(row, scale),
            p50=scale.at(row.p50_ms),
            p90=scale.at(row.p90_ms),
            text=f"p50 {milliseconds(row.p50_ms)}, p90 {milliseconds(row.p90_ms)}, "
            f"{row.n:,} runs in {row.processes} processes",
        )
        for row in rows
    )
    return RidgeChart(rows[0].target, ticks(scale, milliseconds), ridges)


def _area(row: Distribution, scale: Scale) -> str:
    """A closed stepped outline."""
    most = max(row.bins) or 1
    points = [f"{scale.at(row.edges_ms[0])},100"]
    for count, left, right in zip(row.bins, row.edges_ms, row.edges_ms[1:], strict=False):
        height = round(100 - 96 * count / most, 1)
        points += [f"{scale.at(left)},{height}", f"{scale.at(right)},{height}"]
    return " ".join([*points, f"{scale.at(row.edges_ms[-1])},100"])


@dataclass(frozen=True)
class RecallStrip:
    """Where one class's two recalls stand on the axis all classes share; None for what is not known."""

    teacher: float | None
    final: float | None

    @property
    def stretch(self) -> tuple[float, float] | None:
        """(start, width) of the line between the two."""
        if self.teacher is None or self.final is None:
            return None
        return min(self.teacher, self.final), round(abs(self.teacher - self.final), 2)


@dataclass(frozen=True)
class RecallAxis:
    ticks: tuple[Tick, ...]
    scale: Scale

    def strip(self, row: ClassRow) -> RecallStrip:
        def at(value: float | None) -> float | None:
            return None if value is None else self.scale.at(value)

        return RecallStrip(at(row.teacher), at(row.final))


def recall_axis(rows: Sequence[ClassRow]) -> RecallAxis | None:
    """From just below the lowest recall to 100 %; None when no class has images."""
    known = [value for row in rows for value in (row.teacher, row.final) if value is not None]
    if not known:
        return None
    lowest = min(known)
    scale = Scale(max(0.0, lowest - 0.08 * (1 - lowest) - 0.005), 1.0)
    return RecallAxis(ticks(scale, _plain_percent, 3), scale)
