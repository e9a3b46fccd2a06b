from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edgekd.core.measurement import read_measurements
from edgekd.core.run_record import RunRecord
from edgekd.store.store import Store
from tests.pipeline.conftest import TINY, TinyRun, edgekd

pytestmark = pytest.mark.timeout(400)


def record(run: Path) -> RunRecord:
    return RunRecord.model_validate_json((run / "record.json").read_bytes())


def digests(run: Path) -> dict[str, str | None]:
    return {step.name: step.digest for step in record(run).steps}


def test_a_run_leaves_its_record_measurements_verdict_and_reports(tiny_run: TinyRun) -> None:
    for name in ("record.json", "recipe.lock.yaml", "measurements.jsonl", "verdict.json", "events.jsonl"):
        assert (tiny_run.folder / name).is_file(), name
    for name in ("report.html", "report.json", "report.md", "junit.xml"):
        assert (tiny_run.folder / "report" / name).is_file(), name


def test_every_row_is_measured_through_its_exported_graph_on_test_data(tiny_run: TinyRun) -> None:
    found = record(tiny_run.folder)
    assert [row.name for row in found.rows] == ["teacher", "undistilled", "distilled", "ptq", "quantized"]
    assert [row.precision for row in found.rows] == ["fp32", "fp32", "fp32", "int8", "int8"]
    measurements = read_measurements(tiny_run.folder / "measurements.jsonl")
    accuracies = [m for m in measurements if m.quantity == "accuracy"]
    assert {m.subject.name for m in accuracies} == {row.name for row in found.rows}
    assert {m.n for m in accuracies} == {719}


def test_the_exit_code_is_the_verdict(tiny_run: TinyRun) -> None:
    verdict = json.loads((tiny_run.folder / "verdict.json").read_text())
    assert tiny_run.first.code == {"pass": 0, "fail": 1, "inconclusive": 3}[verdict["outcome"]]


def test_the_same_command_again_does_nothing_and_says_the_same(tiny_run: TinyRun) -> None:
    before = digests(tiny_run.folder), (tiny_run.folder / "measurements.jsonl").read_bytes()
    again = edgekd("run", "tiny.yaml", "--threads", "1", cwd=tiny_run.root)
    assert again.code == tiny_run.first.code, again.err
    assert {step.status for step in record(tiny_run.folder).steps} == {"cached"}
    assert (digests(tiny_run.folder), (tiny_run.folder / "measurements.jsonl").read_bytes()) == before


def test_a_training_curve_is_told_again_by_a_cached_run(tiny_run: TinyRun) -> None:
    edgekd("run", "tiny.yaml", "--threads", "1", cwd=tiny_run.root)
    events = [json.loads(line) for line in (tiny_run.folder / "events.jsonl").read_text().splitlines()]
    epochs = [event for event in events if event["event"] == "epoch" and event["step"] == "distill"]
    assert [event["epoch"] for event in epochs] == [1, 2, 3]
    assert "kd" in epochs[0]["train"]


def test_the_control_sees_the_same_start_and_as_many_epochs_without_a_teacher(tiny_run: TinyRun) -> None:
    events = [json.loads(line) for line in (tiny_run.folder / "events.jsonl").read_text().splitlines()]
    control = [e for e in events if e["event"] == "epoch" and e["step"] == "distill-control"]
    assert len(control) == 3
    assert "kd" not in control[0]["train"]
    assert "task" in control[0]["train"]


def test_a_tightened_limit_fails_with_one_and_a_loosened_one_passes(tiny_run: TinyRun) -> None:
    tight = edgekd("gate", "tiny", "--set", "gate.size=1KB", cwd=tiny_run.root)
    assert tight.code == 1, tight.out
    only_size = ["--set", "gate.accuracy_drop=[]", "--set", "gate.size=1MB"]
    assert edgekd("gate", "tiny", *only_size, cwd=tiny_run.root).code == 0


def test_an_absolute_latency_from_too_short_a_session_is_inconclusive_with_three(tiny_run: TinyRun) -> None:
    changes = ["--set", "gate.accuracy_drop=[]", "--set", "gate.latency_p50=1s"]
    judged = edgekd("gate", "tiny", *changes, cwd=tiny_run.root)
    assert judged.code == 3, judged.out
    assert "inconclusive" in judged.out


def test_an_interval_that_straddles_the_limit_is_inconclusive_with_three(tiny_run: TinyRun) -> None:
    measurements = read_measurements(tiny_run.folder / "measurements.jsonl")
    drop = next(
        m
        for m in measurements
        if m.quantity == "accuracy_drop" and m.subject.name == "quantized" and m.against is not None
        and m.against.name == "teacher"
    )  # fmt: skip
    assert drop.value is not None
    limit = f"gate.accuracy_drop={{max: {drop.value * 100:.4f}pt, against: teacher}}"
    judged = edgekd("gate", "tiny", "--set", limit, cwd=tiny_run.root)
    assert judged.code == 3, judged.out


def test_a_changed_measurements_digest_is_never_a_pass(tiny_run: TinyRun, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(tiny_run.folder, copy, symlinks=True)
    for link in (copy / "steps").iterdir():
        target = (tiny_run.folder / "steps" / link.name).resolve()
        link.unlink()
        link.symlink_to(target)
    text = (copy / "measurements.jsonl").read_text()
    final = next(m for m in read_measurements(copy / "measurements.jsonl") if m.subject.name == "quantized")
    (copy / "measurements.jsonl").write_text(text.replace(final.subject.digest, "0" * 64))
    judged = edgekd("gate", str(copy), cwd=tiny_run.root)
    assert judged.code in (2, 3), judged.out


def test_gate_writes_junit_and_appends_a_summary(tiny_run: TinyRun, tmp_path: Path) -> None:
    junit, summary = tmp_path / "j.xml", tmp_path / "s.md"
    summary.write_text("before\n")
    edgekd("gate", "tiny", "--junit", str(junit), "--summary", str(summary), cwd=tiny_run.root)
    assert "<testsuite" in junit.read_text()
    assert summary.read_text().startswith("before\n")
    assert "tiny" in summary.read_text()


def test_another_seed_is_another_run_with_other_weights(tiny_run: TinyRun, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    arguments = ["run", "tiny.yaml", "--threads", "1", "--until", "teacher", "--set", "seed=1", "--json"]
    done = edgekd(*arguments, cwd=tmp_path)
    assert done.code == 0, done.err
    other = Path(tmp_path, json.loads(done.out)["run"])
    assert other.name != tiny_run.folder.name
    assert digests(other)["teacher"] != digests(tiny_run.folder)["teacher"]


@pytest.mark.runs
def test_max_time_stops_resumably_with_75_and_the_same_command_goes_on(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    stopped = edgekd("run", "tiny.yaml", "--threads", "1", "--max-time", "0.01s", cwd=tmp_path)
    assert stopped.code == 75, stopped.err
    assert "again" in stopped.err
    done = edgekd("run", "tiny.yaml", "--threads", "1", "--until", "student", cwd=tmp_path)
    assert done.code == 0, done.err


@pytest.mark.runs
def test_two_runs_on_one_store_make_each_artifact_once(tiny_run: TinyRun, tmp_path: Path) -> None:
    import subprocess
    import sys

    (tmp_path / "tiny.yaml").write_text(TINY)
    command = [sys.executable, "-m", "edgekd", "run", "tiny.yaml", "--threads", "1", "--until", "teacher"]
    both = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    errors = [process.communicate(timeout=200)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert sum("ran in" in text for text in errors) == 1, errors
    store = Store(tmp_path / ".edgekd")
    (run,) = (store.root / "runs" / "tiny").iterdir()
    assert digests(run)["teacher"] == digests(tiny_run.folder)["teacher"]
