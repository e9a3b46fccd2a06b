"""What `edgekd list methods` shows, with torch and without."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgekd.cli.listing import command
from edgekd.core.errors import UsageError
from edgekd.distill.catalogue import METHODS
from edgekd.distill.survey import survey
from tests.cli.running import edgekd, without_training

Capture = pytest.CaptureFixture[str]


def line_of(name: str, shown: str) -> str:
    return next(line for line in shown.splitlines() if line.strip().startswith(f"{name} "))


def test_the_default_method_comes_first_and_every_method_once(capsys: Capture) -> None:
    command("methods", json_=True)
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["name"] == "kd" and rows[0]["family"] == "start here"
    assert sorted(row["name"] for row in rows) == sorted(METHODS.names())


def test_methods_stand_under_their_family(capsys: Capture) -> None:
    command("methods")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("start here")
    headings = [
        line.partition(":")[0] for line in lines if line and not line.startswith((" ", "`", "surveys"))
    ]
    assert headings[1:4] == ["response", "feature", "relation"]


@pytest.mark.parametrize(
    ("name", "mark"),
    [
        ("tf-kd-reg", "[no teacher]"),
        ("avg-teachers", "[2 teachers or more]"),
        ("noisy-student", "[unlabeled images]"),
    ],
)
def test_what_a_method_takes_is_marked(name: str, mark: str, capsys: Capture) -> None:
    command("methods")
    assert mark in line_of(name, capsys.readouterr().out)


def test_a_method_is_told_in_full(capsys: Capture) -> None:
    command("methods", "kd")
    shown = capsys.readouterr().out
    for label in ("paper", "equation", "needs", "cost", "deviations", "status", "parameter temperature"):
        assert label in shown
    assert "number, > 0; default 4; T" in shown


def test_a_method_is_found_by_its_other_names(capsys: Capture) -> None:
    command("methods", "ckkd", json_=True)
    told = json.loads(capsys.readouterr().out)
    assert told["name"] == "cckd" and told["row"]["group"] == "G05"
    assert {parameter["name"] for parameter in told["parameters"]} >= {"gamma", "weight"}


def test_a_row_that_is_no_method_says_why(capsys: Capture) -> None:
    command("methods", "gcn-lsp")
    shown = capsys.readouterr().out
    assert "task: needs another task" in shown and "graph nodes" in shown


def test_every_row_is_shown_with_its_status(capsys: Capture) -> None:
    command("methods", all_=True)
    shown = capsys.readouterr().out
    for row in survey().rows:
        assert f" {row.status}" in line_of(row.id, shown)


def test_rows_are_chosen_by_status_and_group(capsys: Capture) -> None:
    command("methods", status="planned", group="G05", json_=True)
    rows = json.loads(capsys.readouterr().out)
    assert rows and {(row["status"], row["group"]) for row in rows} == {("planned", "G05")}


def test_an_unknown_status_shows_the_choices() -> None:
    with pytest.raises(UsageError, match="choices: method, part, planned"):
        command("methods", status="done")


def test_an_unknown_name_shows_close_ones() -> None:
    with pytest.raises(UsageError, match="close names: fitnets"):
        command("methods", "fitnet")


def test_other_families_show_the_one_that_is_named(capsys: Capture) -> None:
    command("networks", "wrn")
    assert capsys.readouterr().out.startswith("wrn  Wide ResNet")
    with pytest.raises(UsageError, match="not one of the networks; close names: wrn"):
        command("networks", "wrm")


def test_rows_are_asked_for_with_methods_only(tmp_path: Path) -> None:
    done = edgekd("list", "networks", "--all", folder=tmp_path)
    assert done.returncode == 2 and "list methods" in done.stderr


def test_without_torch_names_and_rows_are_shown_and_a_card_names_the_extra(tmp_path: Path) -> None:
    path = without_training(tmp_path)["PYTHONPATH"]
    for arguments in ([], ["--all"], ["sad"]):
        done = edgekd("list", "methods", *arguments, folder=tmp_path, PYTHONPATH=path)
        assert done.returncode == 0 and done.stdout, done.stderr
    done = edgekd("list", "methods", "kd", folder=tmp_path, PYTHONPATH=path)
    assert done.returncode == 6 and "edgekd[train]" in done.stderr
