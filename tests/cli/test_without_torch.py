"""Measuring, judging, reporting, bundling and predicting in a base installation, without torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekd.core.run_record import MEASUREMENTS
from edgekd.store.store import Store
from tests.cli.running import edgekd, without_training
from tests.pipeline.small_run import make_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store that holds one run, measured by a process that has no torch."""
    folder = tmp_path_factory.mktemp("base")
    make_run(Store(folder / ".edgekd"), folder)
    variables = without_training(folder)
    measured = edgekd("measure", "small", folder=folder, **variables)
    assert measured.returncode == 0, measured.stderr
    assert "distilled" in measured.stdout
    return folder


def _variables(folder: Path) -> dict[str, str]:
    return {"PYTHONPATH": f"{folder / 'hidden'}:{Path(__file__).resolve().parents[2]}"}


def test_a_run_is_judged(folder: Path) -> None:
    done = edgekd("gate", "small", "--junit", "junit.xml", folder=folder, **_variables(folder))
    assert done.returncode == 0, done.stderr
    assert "<testsuite" in (folder / "junit.xml").read_text()


@pytest.mark.parametrize(
    ("limit", "code"), [("gate.size=100B", 1), ("gate.latency_p90=1s", 3)], ids=["fail", "inconclusive"]
)
def test_a_tightened_gate_ends_with_the_code_of_its_verdict(folder: Path, limit: str, code: int) -> None:
    """The protocol `smoke` starts too few processes for its times to be judged: inconclusive."""
    done = edgekd("gate", "small", "--set", limit, "--json", folder=folder, **_variables(folder))
    assert done.returncode == code, done.stderr
    assert json.loads(done.stdout)["outcome"] == {1: "fail", 3: "inconclusive"}[code]


def test_a_report_is_written(folder: Path) -> None:
    done = edgekd("report", "small", "--out", "report", folder=folder, **_variables(folder))
    assert done.returncode == 0, done.stderr
    assert "<html" in (folder / "report" / "report.html").read_text()[:500]


def test_a_bundle_is_made_verified_and_used(folder: Path) -> None:
    variables = _variables(folder)
    made = edgekd("bundle", "small", "--out", "bundle", folder=folder, **variables)
    assert made.returncode == 0, made.stderr
    assert edgekd("verify", "bundle", folder=folder, **variables).returncode == 0
    Image.fromarray(np.full((9, 9, 3), 200, np.uint8)).save(folder / "one.png")
    used = edgekd("predict", "bundle", "one.png", "--top", "2", "--json", folder=folder, **variables)
    assert used.returncode == 0, used.stderr
    assert len(json.loads(used.stdout)["classes"]) == 2


def test_a_run_is_shown(folder: Path) -> None:
    done = edgekd("show", "small", "--json", folder=folder, **_variables(folder))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["final"] == "distilled"
    assert next((folder / ".edgekd").rglob(MEASUREMENTS)).stat().st_size > 0


@pytest.mark.parametrize("arguments", [["list", "networks"], ["list", "methods"], ["schema"]])
def test_what_there_is_can_be_looked_up(folder: Path, arguments: list[str]) -> None:
    done = edgekd(*arguments, folder=folder, **_variables(folder))
    assert done.returncode == 0, done.stderr
    assert done.stdout
