"""The shipped artifact beside the same student in other runtimes and precisions, each measured by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edgekd.backends.catalogue import BACKENDS
from edgekd.core.errors import UsageError
from edgekd.core.measurement import Quantity
from edgekd.core.run_record import Row
from edgekd.report.facts import Number, RuntimeRow, RuntimesFact
from edgekd.report.reading import Source
from edgekd.report.waterfall import number, targets_of

_ALONE: dict[str, Quantity] = {
    "accuracy": "accuracy",
    "p50": "latency_p50_ms",
    "size": "size_bytes",
    "memory": "memory_bytes",
    "cold_start": "cold_start_ms",
}
_AGAINST_FINAL: dict[str, Quantity] = {"agreement": "agreement", "speedup": "speedup"}
COLUMNS = {
    "accuracy": "Accuracy",
    "agreement": "Same answers",
    "p50": "Latency p50",
    "speedup": "Speed-up",
    "size": "Size",
    "memory": "Peak memory",
    "cold_start": "Load and first run",
}


def runtimes_of(source: Source) -> tuple[RuntimesFact, ...]:
    """One for each target, where something stands beside the artifact that ships."""
    rows = [row for row in source.record.rows if row.role == "alternative" or row.name == source.record.final]
    if len(rows) < 2:
        return ()
    final = next((row for row in rows if row.name == source.record.final), rows[0])
    rows.sort(key=lambda row: (row is not final, row.precision != final.precision))
    return tuple(
        RuntimesFact(target, tuple(_row(source, row, target) for row in rows))
        for target in targets_of(source)
    )


def _row(source: Source, row: Row, target: str) -> RuntimeRow:
    accuracy = source.of("accuracy", row.name, target)
    subject = next((m.subject for m in source.measurements if m.subject.name == row.name), None)
    facts = next((step.facts for step in source.record.steps if step.name == row.graph_step), {})
    return RuntimeRow(
        name=row.name,
        position=source.record.rows.index(row) + 1,
        runtime=_title(subject.backend if subject else ""),
        precision=row.precision,
        form=str(facts.get("export", {}).get("int8_form", "")) if row.precision == "int8" else "",
        final=row.name == source.record.final,
        numbers=dict(_numbers(source, row, target)),
        executed=_executed(accuracy.detail.get("precisions", {}) if accuracy else {}),
        missing=accuracy.not_measured if accuracy and accuracy.value is None else None,
    )


def _numbers(source: Source, row: Row, target: str) -> Iterator[tuple[str, Number]]:
    for name, quantity in _ALONE.items():
        if (one := source.of(quantity, row.name, target)) is not None:
            yield name, number(one)
    for name, quantity in _AGAINST_FINAL.items():
        if (one := source.of(quantity, row.name, target, source.record.final)) is not None:
            yield name, number(one)


def _title(backend: str) -> str:
    try:
        return BACKENDS.load(backend).title
    except UsageError:  # of a plug-in that is not installed where the report is written
        return backend


def _executed(precisions: Mapping[str, int]) -> str:
    """`21 u8, 3 f32`: kernels by what they computed in, most first; empty where the runtime does not tell."""
    ordered = sorted(precisions.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {name}" for name, count in ordered)
