"""`edgekd history` as its users see it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from edgekd.cli.history_table import sparkline, table
from edgekd.cli.main import exit_code_of
from edgekd.core.errors import StoreError
from edgekd.pipeline.history.record import Entry
from edgekd.pipeline.history.series import History, series_of
from edgekd.store.history import RECIPES, HistoryLog
from edgekd.store.store import Store
from tests.pipeline.history.cases import (
    DEVICE,
    NOISE,
    STEADY,
    accuracy,
    answers,
    kept,
    p50,
    session,
    speedup,
)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Three days of one recipe: the last is larger and less accurate, and its kernel is another."""
    log = HistoryLog(Store(tmp_path / "store"))
    for entry in three_days():
        log.append(RECIPES, "tiny", json.loads(entry.model_dump_json()))
    return tmp_path / "store"


def three_days() -> list[Entry]:
    found = []
    for number, (letter, wrong, size) in enumerate(
        (("a", 10, 90_000), ("b", 12, 90_000), ("c", 60, 95_000)), 1
    ):
        device = {**DEVICE, "kernel": "6.6.40" if number == 3 else "6.6.31"}
        measured = (accuracy(wrong), p50(1.2, validity=NOISE), speedup(STEADY), kept("size_bytes", size))
        told = {"quantized": answers(range(wrong))}
        found.append(session(letter, *measured, day=number, answers=told, device=device))
    return found


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = exit_code_of(["history", *arguments])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_the_table_tells_values_changes_and_the_device(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(capsys, "tiny", "--store", str(store))
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "tiny: Accuracy of quantized on pi5  ██▁"
    assert lines[1].split("  ")[1:3] == ["2026-11-01 12:00 UTC", "run"]
    assert "98.8 %" in lines[2]
    assert lines[5].startswith("      worse −4.80 pt")
    assert lines[5].endswith(": 48 of 1000 images turned, 0 up and 48 down")
    assert lines[6] == "      device: kernel 6.6.31 -> 6.6.40"
    assert "1.20 ms !" in out
    assert lines[-1] == "newest against the one before: 2 worse, 1 not comparable"


def test_a_regression_ends_a_ci_job_with_1(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--store", str(store), "--fail-on-regression")[0] == 1


def test_what_cannot_be_told_ends_a_ci_job_with_3(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = ("--quantity", "latency_p50_ms", "--fail-on-regression")
    assert run(capsys, "--store", str(store), *chosen)[0] == 3
    assert run(capsys, "--store", str(store), *chosen[:2])[0] == 0


def test_the_csv_has_every_quantity_and_the_table_the_headlines(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "out" / "history.csv"
    _, out, _ = run(capsys, "--store", str(store), "--csv", str(file))
    with file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["quantity"] for row in rows].count("speedup") == 3
    assert len(rows) == 12
    assert "Speed-up" not in out


def test_json_is_for_programs(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "--store", str(store), "--json", "--last", "2", "--quantity", "accuracy")
    data = json.loads(out)
    assert (data["of"], data["exit_code"], len(data["series"])) == ("tiny", 1, 1)
    assert [one["change"] for one in data["series"][0]["measurements"]] == [None, "worse"]


def test_an_unknown_name_is_bad_input(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = run(capsys, "tinny", "--store", str(store))
    assert code == 2
    assert "close names: tiny" in error


def test_a_csv_that_cannot_be_written_is_a_disk_error(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, _ = run(capsys, "--store", str(store), "--csv", str(store / "layout.json" / "x.csv"))
    assert code == StoreError.exit_code


def test_a_damaged_line_is_told(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (store / "history" / RECIPES / "tiny.jsonl").open("a") as stream:
        stream.write('{"id": "cut')
    assert "1 line is damaged and left out" in run(capsys, "--store", str(store))[1]


def test_control_characters_of_a_file_do_not_reach_the_terminal() -> None:
    entry = session("a", p50(), target="pi\x1b[31m5")
    assert "\x1b" not in "".join(table("ti\x07ny", series_of(History("tiny", (entry,)))))


@pytest.mark.parametrize(
    ("values", "bars"),
    [([1.0, 2.0, 3.0], "▁▅█"), ([5.0, 5.0], "▅▅"), ([1.0, None, 2.0], "▁·█"), ([None], "·"), ([], "")],
)
def test_a_sparkline_goes_from_the_least_to_the_greatest(values: list[float | None], bars: str) -> None:
    assert sparkline(values) == bars
