from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from edgekd.pipeline.history.export import COLUMNS, as_csv, as_data
from edgekd.pipeline.history.record import Entry
from edgekd.pipeline.history.series import History, series_of
from tests.pipeline.history.cases import DEVICE, STEADY, answers, kept, p50, session, speedup


def two_days(**changes: Any) -> History:
    entries = tuple(
        session(letter, p50(ms), speedup(STEADY), day=n, answers={"quantized": answers(range(n))}, **changes)
        for n, letter, ms in ((1, "a", 1.25), (2, "b", 1.5))
    )
    return History("tiny", entries)


def rows_of(*entries: Entry, history: History | None = None) -> list[dict[str, str]]:
    text = as_csv(series_of(history or History("tiny", entries), quantities=["all"]))
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_there_is_one_row_a_measurement_with_the_same_columns() -> None:
    rows = rows_of(history=two_days())
    assert len(rows) == 4
    assert all(tuple(row) == COLUMNS for row in rows)


def test_the_columns_keep_their_names_and_places() -> None:
    """Sheets and scripts read them: new ones go to the end."""
    assert COLUMNS[:11] == (
        *("taken_at", "target", "row", "artifact", "precision", "backend", "quantity"),
        *("against", "against_artifact", "unit", "value"),
    )
    assert len(set(COLUMNS)) == len(COLUMNS) == 46


def test_a_row_says_what_was_measured_where_and_what_changed() -> None:
    row = rows_of(history=two_days())[1]
    wanted = {
        "taken_at": "2026-11-02T12:00:00+00:00",
        "target": "pi5",
        "artifact": "b" * 64,
        "quantity": "latency_p50_ms",
        "value": "1.5",
        "valid": "true",
        "ships": "true",
        "change": "no change",
        "change_form": "ratio",
        "change_value": "1.0",
        "cpu": "Cortex-A76",
        "runtime": "onnxruntime 1.31.0",
        "threads": "4",
        "governor": "performance",
        "recipe": "tiny",
    }
    assert {name: row[name] for name in wanted} == wanted
    assert float(row["change_low"]) < 1 < float(row["change_high"])


def test_the_first_of_a_series_has_no_change() -> None:
    row = rows_of(history=two_days())[0]
    assert [row[name] for name in ("change", "change_value", "change_why", "device_changed")] == [
        "",
        "",
        "",
        "",
    ]


def test_what_changed_of_the_device_is_in_the_row() -> None:
    before = session("a", p50(), device={**DEVICE, "kernel": "5", "governor": "schedutil"})
    row = rows_of(before, session("b", p50(), day=2))[1]
    assert row["device_changed"] == "governor schedutil -> performance; kernel 5 -> 6.6.31"


@pytest.mark.parametrize(
    "text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "＝1", "＠x"]
)
def test_text_that_a_spreadsheet_would_run_is_quoted(text: str) -> None:
    history = two_days(device={**DEVICE, "cpu": text}, recipe=text, run_id=text)
    for row in rows_of(history=history):
        for name in ("cpu", "recipe", "run_id"):
            assert row[name].startswith("'")
            assert row[name].endswith(text[-1])


def test_negative_numbers_stay_numbers() -> None:
    (row,) = rows_of(session("a", kept("accuracy_drop", -0.0125, against="teacher")))
    assert float(row["value"]) == -0.0125


def test_separators_quotes_and_line_ends_in_a_text_stay_in_its_cell() -> None:
    text = 'a, "b"; c\nd\u2028e'
    assert rows_of(session("a", p50(), recipe=text))[0]["recipe"] == text


def test_text_that_utf_8_cannot_carry_is_replaced() -> None:
    text = as_csv(series_of(History("tiny", (session("a", p50(), recipe="caf\udce9\0"),))))
    assert "caf?" in text
    assert b"\0" not in text.encode()


def test_json_has_the_same_names_with_its_own_types() -> None:
    data = json.loads(json.dumps(as_data(series_of(two_days(), quantities=["all"]))))
    assert [(one["quantity"], one["against"]) for one in data] == [
        ("latency_p50_ms", None),
        ("speedup", "teacher"),
    ]
    first = data[0]["measurements"][0]
    assert set(first) == set(COLUMNS)
    assert (first["value"], first["valid"], first["change"]) == (1.25, True, None)
