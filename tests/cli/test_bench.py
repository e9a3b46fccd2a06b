"""`edgekd bench` as its users run it, and what `edgekd gate` was given beside judging."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from edgekd.cli.main import exit_code_of
from edgekd.core.measurement import Interval, Measurement, Subject, write_measurements
from edgekd.core.run_record import MEASUREMENTS
from edgekd.pipeline.run_folder import final_graph, read_record
from edgekd.pipeline.session import graph_digest
from edgekd.store.store import Store
from tests.cli.running import edgekd, environment, without_training
from tests.measure import graphs
from tests.pipeline.small_run import make_run

Here = Callable[..., tuple[int, str]]


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """Runs a command in this process, in `folder`: its exit code and what it said on standard error."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("EDGEKD_STORE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    return lambda *arguments: (exit_code_of(list(arguments)), capsys.readouterr().err)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    graphs.conv_net(tmp_path / "a.onnx", width=4)
    graphs.conv_net(tmp_path / "b.onnx", width=16)
    return tmp_path


def test_two_files_are_compared_without_torch_and_without_a_store(folder: Path) -> None:
    changes: dict[str, Any] = {"XDG_CACHE_HOME": str(folder / "cache"), **without_training(folder)}
    done = edgekd(
        *("bench", "a.onnx", "b.onnx", "--profile", "smoke", "--json", "--expect", "faster"),
        folder=folder,
        **changes,
        EDGEKD_LEASE_DIR=str(folder / "lease"),
    )
    assert done.returncode == 3, done.stderr
    found = json.loads(done.stdout)
    (answer,) = found["answers"]
    assert (answer["name"], answer["against"], answer["answer"]) == ("b", "a", "cannot tell")
    assert found["outcome"] == "inconclusive"
    assert not (folder / ".edgekd").exists()


def test_control_c_keeps_the_processes_that_are_finished(folder: Path) -> None:
    changes = {"XDG_CACHE_HOME": str(folder / "cache"), "EDGEKD_LEASE_DIR": str(folder / "lease")}
    command = [sys.executable, "-m", "edgekd.cli.main", "bench", "a.onnx", "b.onnx", "--profile", "quick"]
    with subprocess.Popen(
        command, cwd=folder, env=environment(**changes), stderr=subprocess.PIPE, text=True
    ) as bench:
        kept = _journal_of_one_process(folder / "cache", bench)
        bench.send_signal(signal.SIGINT)
        _, said = bench.communicate(timeout=60)
    assert bench.returncode == 130
    assert "run the same command again to continue" in said
    assert "latency/0" in kept.read_text()


def _journal_of_one_process(cache: Path, bench: subprocess.Popen[str]) -> Path:
    """The journal, once the first timed process is in it."""
    for _ in range(600):
        assert bench.poll() is None, "it ended by itself"
        found = list(cache.glob("edgekd/bench/*/journal.jsonl"))
        if found and "latency/0" in found[0].read_text():
            return found[0]
        time.sleep(0.1)
    raise AssertionError("no process was finished within a minute")


def test_an_emulated_device_has_no_times(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_EMULATED", "qemu")
    code, said = here("bench", "a.onnx", "b.onnx")
    assert code == 2
    assert "an emulated device has no times of its own (qemu)" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.onnx"], "at least two models"),
        (["a.onnx", "c.onnx"], "c.onnx: there is no such file"),
        (["a.onnx", "b.onnx", "--target", "pi5"], "`pi5` is not a target"),
        (["a.onnx", "b.onnx", "--profile", "quik"], "close names: quick"),
        (["a.onnx", "b.onnx", "--baseline", "c"], "choices: a, b"),
        (["a.onnx", "b.onnx", "--threads", "100000"], "--threads"),
        (["a.onnx", "b.onnx", "--profile", "smoke", "--until-decided"], "nothing is ever decided"),
    ],
)
def test_bad_input_is_named_before_anything_is_timed(here: Here, arguments: list[str], message: str) -> None:
    code, said = here("bench", *arguments)
    assert code == 2
    assert message in said


@pytest.fixture
def run(folder: Path) -> Path:
    """A run whose accuracy of 90 % (81 % to 95 %) is its only measurement."""
    made = make_run(Store(folder / ".edgekd"), folder, gate={"accuracy": [{"min": "88 %"}]})
    subject = Subject(name="distilled", digest=graph_digest(final_graph(read_record(made), made)))
    accuracy = Measurement(
        quantity="accuracy",
        unit="fraction",
        value=0.9,
        interval=Interval(low=0.81, high=0.95, method="wilson"),
        n=60,
        subject=subject,
        target="local",
        taken_at=datetime.now(UTC).isoformat(),
    )
    write_measurements(made / MEASUREMENTS, [accuracy])
    return made


def test_deciding_an_accuracy_says_what_would(run: Path, here: Here) -> None:
    code, said = here("gate", "small", "--decide")
    assert code == 3
    assert "test images in all" in said
    assert "the test split has 60 images, and more cannot be conjured" in said


def test_a_release_that_is_no_bundle_is_named(run: Path, here: Here) -> None:
    code, said = here("gate", "small", "--against", "nothing")
    assert code == 2
    assert "nothing: this folder holds no bundle" in said
