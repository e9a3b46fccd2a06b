"""The waterfall: every row on every target, with its differences from the row before and from the teacher."""

from __future__ import annotations

from typing import Any

from edgekd.core.measurement import Measurement, Quantity
from edgekd.core.run_record import Row
from edgekd.measure.statistics import paired_difference
from edgekd.report.facts import Number, TargetFact, WaterfallRow
from edgekd.report.predictions import Predictions
from edgekd.report.reading import Source

PLAIN: dict[str, Quantity] = {
    "accuracy": "accuracy",
    "p50": "latency_p50_ms",
    "p90": "latency_p90_ms",
    "size": "size_bytes",
    "memory": "memory_bytes",
    "cold_start": "cold_start_ms",
    "host_agreement": "host_agreement",
    "throughput": "throughput_ips",
    "sustained": "sustained_ratio",
    "energy": "energy_mj",
}


def number(taken: Measurement) -> Number:
    """A measurement as a report's number."""
    interval = taken.interval
    return Number(
        quantity=taken.quantity,
        value=taken.value,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        level=interval.level if interval else 0.95,
        n=taken.n,
        valid=taken.validity.valid,
        reasons=taken.validity.reasons,
        missing=taken.not_measured if taken.value is None else None,
        reused_from=taken.reused_from,
    )


def targets_of(source: Source) -> tuple[str, ...]:
    """Targets in the record's order, then those that only measurements name."""
    return tuple(dict.fromkeys([*source.record.targets, *(one.target for one in source.measurements)]))


def teacher_row(source: Source) -> Row | None:
    """The row made by the step `teacher`, or else named so, or else the first one."""
    stages = {step.name: step.stage for step in source.record.steps}
    for row in source.record.rows:
        if stages.get(row.model_step or "") == "teacher":
            return row
    named = [row for row in source.record.rows if row.name == "teacher"]
    return next(iter([*named, *source.record.rows]), None)


def baseline_name(source: Source) -> str | None:
    """`teacher`, or the name of another first row; None when that is the row that ships."""
    row = teacher_row(source)
    if row is None or row.name == source.record.final:
        return None
    stages = {step.name: step.stage for step in source.record.steps}
    return "teacher" if stages.get(row.model_step or "") == "teacher" else row.name


def waterfall(source: Source, predictions: Predictions) -> tuple[TargetFact, ...]:
    """Rows in the order of the record, for each target."""
    return tuple(_target(source, name, predictions) for name in targets_of(source))


def _target(source: Source, name: str, predictions: Predictions) -> TargetFact:
    here = [one for one in source.measurements if one.target == name]
    device: dict[str, Any] = next((one.device for one in here if one.device), {})
    protocol: dict[str, Any] = next(
        (one.protocol for one in here if one.quantity == "latency_p50_ms" and one.protocol), {}
    )
    rows = tuple(_row(source, name, index, predictions) for index in range(len(source.record.rows)))
    return TargetFact(name=name, device=device, protocol=protocol, rows=rows)


def _row(source: Source, target: str, index: int, predictions: Predictions) -> WaterfallRow:
    row = source.record.rows[index]
    before = [one for one in source.record.rows[:index] if one.role != "alternative"]
    previous = before[-1] if before else None
    teacher = teacher_row(source)
    backend = next((m.subject.backend for m in source.measurements if m.subject.name == row.name), "")
    return WaterfallRow(
        position=index + 1,
        name=row.name,
        title=row.title,
        role=row.role,
        precision=row.precision,
        backend=backend,
        final=row.name == source.record.final,
        probe=row.probe,
        previous=previous.title if previous else None,
        numbers=_numbers(source, target, row, previous, teacher, predictions),
    )


def _numbers(
    source: Source,
    target: str,
    row: Row,
    previous: Row | None,
    teacher: Row | None,
    predictions: Predictions,
) -> dict[str, Number]:
    found = {name: source.of(quantity, row.name, target) for name, quantity in PLAIN.items()}
    numbers = {name: number(one) for name, one in found.items() if one is not None}
    for name, other in (("drop_previous", previous), ("drop_teacher", teacher)):
        if other is not None and other.name != row.name:
            drop = drop_between(source, row.name, other.name, target, predictions)
            if drop is not None:
                numbers[name] = drop
    if teacher is not None and teacher.name != row.name:
        speedup = source.of("speedup", row.name, target, teacher.name)
        if speedup is not None:
            numbers["speedup"] = number(speedup)
    return numbers


def drop_between(
    source: Source, subject: str, against: str, target: str, predictions: Predictions
) -> Number | None:
    """The paired drop from `against` to `subject`: measured, or measured the other way round and turned,
    or else counted from the session's logits."""
    taken = source.of("accuracy_drop", subject, target, against)
    if taken is not None:
        return number(taken)
    turned = source.of("accuracy_drop", against, target, subject)
    if turned is not None:
        return inverted(number(turned))
    return _counted(predictions, subject, against, target)


def inverted(drop: Number) -> Number:
    """The same difference seen from the other side."""

    def minus(value: float | None) -> float | None:
        return None if value is None else -value

    return Number(
        quantity=drop.quantity,
        value=minus(drop.value),
        low=minus(drop.high),
        high=minus(drop.low),
        level=drop.level,
        n=drop.n,
        valid=drop.valid,
        reasons=drop.reasons,
        missing=drop.missing,
        reused_from=drop.reused_from,
    )


def _counted(predictions: Predictions, subject: str, against: str, target: str) -> Number | None:
    after, before = predictions.right(target, subject), predictions.right(target, against)
    if after is None or before is None or len(after) != len(before) or len(after) == 0:
        return None
    lost, won, n = int((before & ~after).sum()), int((after & ~before).sum()), len(after)
    interval = paired_difference(lost, won, n)
    return Number("accuracy_drop", (lost - won) / n, interval.low, interval.high, interval.level, n)
