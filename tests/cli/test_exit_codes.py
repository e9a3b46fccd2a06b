"""Each way a command ends has its own exit code, one clear screen and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgekd.cli.main import exit_code_of
from edgekd.measure import agent  # noqa: F401 - here, because importing it limits NumPy's threads
from tests.cli.running import edgekd, environment, without_training


@dataclass
class Ended:
    """How a command ended in this process."""

    returncode: int
    stderr: str


Run = Callable[..., Ended]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs commands in `tmp_path`, in this process: quicker than a new one for each kind of bad input."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: Ended(exit_code_of(list(arguments)), capsys.readouterr().err)


MISSPELT = "data: {source: digits}\nsteps:\n  - teacher: {network: resnet_cifar, epoch: 3}\n  - exprot\n"


def _clear(done: Ended | subprocess.CompletedProcess[str]) -> None:
    """One screen for a person."""
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr
    assert 0 < len(done.stderr.splitlines()) <= 24, done.stderr


@pytest.mark.parametrize("command", ["validate", "plan", "run"])
def test_2_for_a_recipe_that_does_not_exist(run: Run, command: str) -> None:
    done = run(command, "nowhere")
    assert done.returncode == 2
    assert "choices:" in done.stderr
    _clear(done)


def test_2_for_misspelt_names_all_at_once_with_line_and_path(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(MISSPELT)
    done = edgekd("run", "recipe.yaml", folder=tmp_path)
    assert done.returncode == 2
    assert (
        "recipe.yaml:3: steps[0].teacher.epoch: `epoch` is not a key here; close names: epochs" in done.stderr
    )
    assert "recipe.yaml:4: steps[1].exprot: `exprot` is not a stage; close names: export" in done.stderr
    assert not (tmp_path / ".edgekd").exists()
    _clear(done)


@pytest.mark.parametrize(
    "text",
    ["", "- a list", "data: [", "steps: {}", "seed: 1\nseed: 2\nsteps: [export]", "a: &a [*a]", "\x00"],
    ids=["empty", "list", "broken", "steps", "repeated", "cyclic", "binary"],
)
def test_2_for_what_is_not_a_recipe(run: Run, tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    done = run("validate", "recipe.yaml")
    assert done.returncode == 2, done.stderr
    _clear(done)


@pytest.mark.parametrize(
    "arguments",
    [["run"], ["no-such-command"], ["run", "quickstart", "--max-time", "soon"], ["list"]],
    ids=["missing argument", "unknown command", "bad duration", "missing family"],
)
def test_2_for_wrong_usage(run: Run, arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["gate"], ["report"], ["show"], ["bundle"], ["measure"], ["verify", "."], ["predict", ".", "a.png"]],
)
def test_2_where_there_is_no_run_or_bundle(run: Run, arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "fix: edgekd" in done.stderr
    _clear(done)


def test_2_for_an_unknown_target(run: Run, tmp_path: Path) -> None:
    recipe = "targets: [pi6]\nsteps: [teacher: {network: resnet_cifar}, export]\n"
    (tmp_path / "recipe.yaml").write_text(recipe)
    done = run("validate", "recipe.yaml")
    assert done.returncode == 2
    assert "`pi6` is not a target" in done.stderr
    _clear(done)


@pytest.mark.parametrize("arguments", [["gate"], ["store", "size"], ["run", "quickstart"]])
def test_5_where_the_store_cannot_be_written(run: Run, tmp_path: Path, arguments: list[str]) -> None:
    # A file in the folder's way: root, as which containers run, may write into read-only folders.
    (tmp_path / "blocked").write_text("in the way")
    done = run(*arguments, "--store", "blocked")
    assert done.returncode == 5, done.stderr
    assert "cannot write" in done.stderr
    _clear(done)


def test_5_in_a_process_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "blocked").write_text("in the way")
    done = edgekd("store", "size", folder=tmp_path, EDGEKD_STORE="blocked")
    assert done.returncode == 5, done.stderr
    _clear(done)


def test_5_for_a_store_of_another_layout(run: Run, tmp_path: Path) -> None:
    assert run("store", "size").returncode == 0
    (tmp_path / ".edgekd" / "layout.json").write_text('{"version": 99}')
    done = run("store", "size")
    assert done.returncode == 5
    assert "--store DIR" in done.stderr
    _clear(done)


def test_6_without_a_package_names_the_extra(tmp_path: Path) -> None:
    done = edgekd("run", "quickstart", folder=tmp_path, **without_training(tmp_path))
    assert done.returncode == 6, done.stderr
    assert "pip install 'edgekd[train]'" in done.stderr
    _clear(done)


def test_141_where_the_reader_of_the_output_is_gone(tmp_path: Path) -> None:
    """A verdict that nobody could read must not look like a pass."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "edgekd.cli.main", "schema"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment(),
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    os.close(writing)
    assert done.returncode == 141, done.stderr
    assert done.stderr == ""
