"""The table keeps predicted and measured apart, and a file that anyone wrote is checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from edgekd.core.errors import UsageError
from edgekd.search.latency_table import Latency, read_table, write_table
from tests.search.material import TARGET, candidates, table

EVERYTHING = candidates()
TABLE = table(EVERYTHING)


def test_a_table_survives_its_file(tmp_path: Path) -> None:
    write_table(tmp_path / "table.json", TABLE)
    again = read_table(tmp_path / "table.json")
    assert again == TABLE
    assert again.digest == TABLE.digest


def test_only_timed_candidates_have_a_measured_latency() -> None:
    measured = [row for row in TABLE.rows if row.latency[TARGET].measured]
    assert len(measured) == TABLE.num_timed == 10
    for row in TABLE.rows:
        latency = row.latency[TARGET]
        assert latency.predicted_p50_ms is not None
        assert latency.predicted_error == TABLE.predictors[TARGET].median_error
        assert latency.p50_ms == (latency.measured_p50_ms or latency.predicted_p50_ms)


def test_a_prediction_without_its_error_is_refused() -> None:
    with pytest.raises(ValidationError, match="needs the predictor's error"):
        Latency(predicted_p50_ms=3.0)


def test_rows_for_other_candidates_are_refused() -> None:
    with pytest.raises(UsageError, match=r"lacks 24 of 24 candidates: other-depth2"):
        TABLE.rows_for(candidates("other"))


def test_a_network_with_a_known_id_but_other_arguments_is_refused() -> None:
    first = EVERYTHING[0]
    spec = first.spec.model_copy(update={"num_classes": 99})
    with pytest.raises(UsageError, match="lacks 1 of 1"):
        TABLE.rows_for([first.model_copy(update={"spec": spec})])


def damaged(change: Callable[[dict[str, Any]], object]) -> str:
    data = json.loads(TABLE.model_dump_json())
    change(data)
    return json.dumps(data)


def first_latency(data: dict[str, Any]) -> dict[str, Any]:
    latency: dict[str, Any] = data["rows"][0]["latency"][TARGET]
    return latency


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a latency table"),
        (TABLE.model_dump_json()[:-200], "not a latency table"),
        ("[" * 100_000, "not a latency table"),
        ('{"rows": []}', "precision"),
        (damaged(lambda d: first_latency(d).update(measured_p50_ms=-1)), "greater than 0"),
        (damaged(lambda d: first_latency(d).update(measured_p50_ms=float("nan"))), "measured_p50_ms"),
        (damaged(lambda d: first_latency(d).update(measured_p50_ms=1e999)), "measured_p50_ms"),
        (damaged(lambda d: d["rows"].append(d["rows"][0])), "twice"),
        (damaged(lambda d: d["rows"][0]["latency"].clear()), "exactly the targets"),
        (damaged(lambda d: d["rows"][0].update(surprise=1)), "surprise"),
        (damaged(lambda d: d.update(schema_version=99)), "newer edgekd"),
    ],
)
def test_a_damaged_file_is_a_usage_error_that_says_where(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as caught:
        read_table(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "table.json").write_bytes(b"\x80\x04\x95" * 100)
    with pytest.raises(UsageError, match="not a latency table"):
        read_table(tmp_path / "table.json")


def test_an_absent_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the latency table"):
        read_table(tmp_path / "absent.json")
