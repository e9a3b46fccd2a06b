"""The shipped artifact beside the same student in other runtimes and precisions, each measured by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

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
    "compute": "Computing alone",
    "speedup": "Speed-up",
    "size": "Size",
    "memory": "Peak memory",
    "cold_start": "Load and first run",
}


_ONLY_WHERE_TOLD = ("compute",)


def columns_of(group: RuntimesFact) -> dict[str, str]:
    """`COLUMNS`, without what no runtime tells."""
    told = {key for row in group.rows for key in row.numbers}
    return {key: name for key, name in COLUMNS.items() if key not in _ONLY_WHERE_TOLD or key in told}


def runtimes_of(source: Source) -> tuple[RuntimesFact, ...]:
    """One for each target, where something stands beside the artifact that ships."""
    rows = _rows(source)
    if len(rows) < 2:
        return ()
    final = next((row for row in rows if row.name == source.record.final), rows[0])
    rows.sort(key=lambda row: (row is not final, row.precision != final.precision))
    return tuple(
        RuntimesFact(target, tuple(_row(source, row, target) for row in rows))
        for target in targets_of(source)
    )


def _rows(source: Source) -> list[Row]:
    """What ships, what stands beside it, and what it was chosen from: each artifact once."""
    record = source.record
    shipped = next((row.graph_step for row in record.rows if row.name == record.final), None)
    inputs = next((step.inputs for step in record.steps if step.name == shipped), {})
    chosen_from = {name for names in inputs.values() for name in names.split(",")}
    found: dict[object, Row] = {}
    for row in sorted(record.rows, key=lambda row: row.name != record.final):
        if row.role == "alternative" or row.name == record.final or row.graph_step in chosen_from:
            found.setdefault(_artifact(source, row), row)
    return [row for row in record.rows if row in found.values()]


def _artifact(source: Source, row: Row) -> object:
    """Two rows with the same one were measured once; a row that was not measured has its own."""
    subject = next((m.subject for m in source.measurements if m.subject.name == row.name), None)
    return row.name if subject is None else (subject.backend, subject.digest)


def _row(source: Source, row: Row, target: str) -> RuntimeRow:
    accuracy = source.of("accuracy", row.name, target)
    subject = next((m.subject for m in source.measurements if m.subject.name == row.name), None)
    facts = next((step.facts for step in source.record.steps if step.name == row.graph_step), {})
    return RuntimeRow(
        name=row.name,
        position=source.record.rows.index(row) + 1,
        runtime=_title(subject.backend if subject else ""),
        precision=row.precision,
        form=_form(facts.get("export", {})) if row.precision == "int8" else "",
        final=row.name == source.record.final,
        numbers=dict(_numbers(source, row, target)),
        executed=_executed(accuracy.detail.get("precisions", {}) if accuracy else {}),
        missing=accuracy.not_measured if accuracy and accuracy.value is None else None,
    )


def _numbers(source: Source, row: Row, target: str) -> Iterator[tuple[str, Number]]:
    for name, quantity in _ALONE.items():
        if (one := source.of(quantity, row.name, target)) is not None:
            yield name, number(one)
    p50 = source.of("latency_p50_ms", row.name, target)
    if p50 is not None and "compute_p50_ms" in p50.detail:
        alone = float(p50.detail["compute_p50_ms"])
        yield "compute", replace(number(p50), value=alone, low=None, high=None)
    for name, quantity in _AGAINST_FINAL.items():
        if (one := source.of(quantity, row.name, target, source.record.final)) is not None:
            yield name, number(one)


def _title(backend: str) -> str:
    try:
        return BACKENDS.load(backend).title
    except UsageError:  # of a plug-in that is not installed where the report is written
        return backend


def _form(exported: Mapping[str, Any]) -> str:
    """How the integers came about, and what is around them where that is not float32."""
    around = exported.get("float_layers", "fp32")
    parts = (exported.get("int8_form", ""), f"{str(around).upper()} around" if around != "fp32" else "")
    return ", ".join(str(part) for part in parts if part)


def _executed(precisions: Mapping[str, int]) -> str:
    """`21 u8, 3 f32`: kernels by what they computed in, most first; empty where the runtime does not tell."""
    ordered = sorted(precisions.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count} {name}" for name, count in ordered)
