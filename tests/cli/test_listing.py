from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgekd.cli.listing import FAMILIES, command
from edgekd.core.shipped import shipped_recipes
from edgekd.data.catalogue import SOURCES
from edgekd.stages.catalogue import STAGES
from tests.cli.running import edgekd

_NAMES = {"data": SOURCES.names(), "stages": STAGES.names(), "recipes": tuple(shipped_recipes())}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_listed_with_what_its_names_are(
    family: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command(family, json_=True)
    rows = json.loads(capsys.readouterr().out)
    assert all(row["name"] and set(row) >= {"name", "summary", "needs"} for row in rows)
    if family in _NAMES:
        assert tuple(row["name"] for row in rows) == _NAMES[family]


def test_what_a_name_needs_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    command("data")
    digits = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("digits"))
    assert "[needs edgekd[train]]" in digits


def test_the_versions_that_a_backend_was_proven_with_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    command("backends", "onnx")
    assert "proven with onnxruntime >=" in capsys.readouterr().out


def test_targets_come_from_the_devices_file_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "edgekd-devices.yaml").write_text("board: {kind: local, threads: 3}\n")
    command("targets", json_=True)
    assert {row["name"]: row["summary"] for row in json.loads(capsys.readouterr().out)} == {
        "local": "local, threads: 1",
        "board": "local, threads: 3",
    }


def test_an_unknown_family_shows_the_choices(tmp_path: Path) -> None:
    done = edgekd("list", "method", folder=tmp_path)
    assert done.returncode == 2
    assert "methods" in done.stderr
