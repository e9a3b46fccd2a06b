"""The history as CSV for spreadsheets and as JSON for programs: one row per measurement."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

from edgekd.core.digest import of_data
from edgekd.core.measurement import Interval
from edgekd.pipeline.history.change import Change, Point
from edgekd.pipeline.history.series import Series, Step

COLUMNS = (
    *("taken_at", "target", "row", "artifact", "precision", "backend", "quantity"),
    *("against", "against_artifact", "unit", "value", "low", "high", "level", "interval_method"),
    *("n", "processes", "valid", "reasons", "not_measured", "reused_from"),
    *("change", "change_form", "change_value", "change_low", "change_high", "change_method"),
    *("change_why", "device_changed", "session", "kind", "recipe", "run_id", "ships", "protocol"),
    *("batch", "images", "answers", "device", "cpu", "threads", "governor", "kernel", "os"),
    *("runtime", "emulated"),
)
"""Only ever added to at the end, so that what reads the file by position keeps working."""

_FORMULA = (
    *"=+-@\t\r\n",
    *"\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}\N{FULLWIDTH HYPHEN-MINUS}\N{FULLWIDTH COMMERCIAL AT}",
)


def as_csv(series: Iterable[Series]) -> str:
    """A header and one line a measurement. Text that a spreadsheet would run as a formula begins with `'`."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS)
    writer.writeheader()
    for one in series:
        for step in one.steps:
            writer.writerow({name: _cell(value) for name, value in _row(one, step).items()})
    return stream.getvalue()


def as_data(series: Iterable[Series]) -> list[dict[str, Any]]:
    """Plain data: each series with its measurements, under the CSV's names."""
    return [
        {
            **{"target": one.target, "row": one.row, "quantity": one.quantity, "against": one.against},
            "measurements": [_row(one, step) for step in one.steps],
        }
        for one in series
    ]


def _cell(value: Any) -> Any:
    """Numbers as they are; other values as text that is data in every spreadsheet."""
    if value is None or isinstance(value, int | float):
        return str(value).lower() if isinstance(value, bool) else value
    text = "; ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
    text = text.encode("utf-8", "replace").decode("utf-8").replace("\0", "")
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text


def _row(series: Series, step: Step) -> dict[str, Any]:
    return {
        **_measured(step.point),
        **_changed(step.change),
        "device_changed": step.device,
        **_session(step.point),
    }


def _measured(point: Point) -> dict[str, Any]:
    kept, against = point.kept, point.against
    return {
        "taken_at": point.entry.taken_at,
        "target": point.entry.target,
        "row": kept.subject,
        "artifact": point.subject.digest,
        "precision": point.subject.precision,
        "backend": point.subject.backend,
        "quantity": kept.quantity,
        "against": kept.against,
        "against_artifact": against.digest if against else None,
        "unit": kept.unit,
        "value": kept.value,
        **_ends("", kept.interval),
        "level": kept.interval.level if kept.interval else None,
        "interval_method": kept.interval.method if kept.interval else None,
        "n": kept.n,
        "processes": kept.processes,
        "valid": kept.validity.valid,
        "reasons": kept.validity.reasons,
        "not_measured": kept.not_measured,
        "reused_from": kept.reused_from,
    }


def _changed(change: Change | None) -> dict[str, Any]:
    """Of the first measurement there is none: every cell is empty."""
    return {
        "change": change.outcome if change else None,
        "change_form": change.form if change and change.value is not None else None,
        "change_value": change.value if change else None,
        **_ends("change_", change.interval if change else None),
        "change_method": change.interval.method if change and change.interval else None,
        "change_why": change.why if change else None,
    }


def _ends(prefix: str, interval: Interval | None) -> dict[str, float | None]:
    low, high = (interval.low, interval.high) if interval else (None, None)
    return {f"{prefix}low": low, f"{prefix}high": high}


def _session(point: Point) -> dict[str, Any]:
    entry, answers = point.entry, point.answers
    return {
        "session": entry.id,
        "kind": entry.kind,
        "recipe": entry.recipe,
        "run_id": entry.run_id,
        "ships": point.kept.subject == entry.final,
        "protocol": entry.protocol.get("name"),
        "batch": entry.protocol.get("batch"),
        "images": answers.images if answers else None,
        "answers": answers.predictions if answers else None,
        "device": of_data(entry.device)[:16],
        "threads": entry.device.get("target.threads"),
        "runtime": runtime_of(entry.device),
        **{name: entry.device.get(name) for name in ("cpu", "governor", "kernel", "os", "emulated")},
    }


def runtime_of(device: Mapping[str, Any]) -> str | None:
    """`onnxruntime 1.32.0`: the package that a backend's runtime module is named in the facts with."""
    modules = {name: value for name, value in device.items() if name.startswith("runtime_")}
    told = [f"{name.partition('.')[2]} {value}" for name, value in modules.items()]
    return ", ".join(text for text in told if not text.startswith(("build ", "numpy "))) or None
