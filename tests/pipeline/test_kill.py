"""kill -9 at three named points, then the same command: the same digests as a run that was never killed."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from edgekd.core.measurement import read_measurements
from edgekd.core.run_record import RunRecord
from tests.pipeline.conftest import TINY, TinyRun, edgekd

pytestmark = [pytest.mark.runs, pytest.mark.timeout(400)]

KILL = "import os, signal\ndef kill():\n    os.kill(os.getpid(), signal.SIGKILL)\n"

MID_EPOCH = """
from edgekd.distill.engine import Engine
step = Engine.step
def killing(self, batch, position):
    if position.step == 31 and "kd" in {term.name for term in self.program.terms}:
        kill()
    return step(self, batch, position)
Engine.step = killing
"""

MID_MEASURE = """
from edgekd.measure.device import Device
call = Device.call
seen = []
def killing(self, mode, *arguments, **fields):
    answer = call(self, mode, *arguments, **fields)
    seen.append(mode)
    if seen.count("memory") == 4:
        kill()
    return answer
Device.call = killing
"""

BETWEEN_FSYNC_AND_RENAME = """
replace = os.replace
def killing(source, destination):
    if "objects" in str(destination) and str(source).endswith(".tmp"):
        kill()
    return replace(source, destination)
os.replace = killing
"""


def digests(folder: Path) -> dict[str, str | None]:
    record = RunRecord.model_validate_json((folder / "record.json").read_bytes())
    return {step.name: step.digest for step in record.steps}


def accuracies(folder: Path) -> dict[str, float | None]:
    found = read_measurements(folder / "measurements.jsonl")
    return {m.subject.name: m.value for m in found if m.quantity == "accuracy"}


@pytest.mark.parametrize("wrapper", [MID_EPOCH, BETWEEN_FSYNC_AND_RENAME], ids=["mid-epoch", "mid-rename"])
def test_a_run_killed_while_it_makes_artifacts_ends_with_the_same_digests(
    tiny_run: TinyRun, tmp_path: Path, wrapper: str
) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    command = ["run", "tiny.yaml", "--threads", "1", "--until", "quantize"]
    killed = edgekd(*command, cwd=tmp_path, wrapper=KILL + wrapper)
    assert killed.code == -signal.SIGKILL, f"the point was never reached: {killed.err}"
    again = edgekd(*command, cwd=tmp_path)
    assert again.code == 0, again.err
    made = digests(run_of(tmp_path))
    assert len(made) == 4
    assert made.items() <= digests(tiny_run.folder).items()
    assert left_behind(tmp_path) == []


def test_a_run_killed_while_it_measures_ends_with_the_same_digests_and_accuracies(
    tiny_run: TinyRun, tmp_path: Path
) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    shutil.copytree(tiny_run.root / ".edgekd", tmp_path / ".edgekd", symlinks=True)
    shutil.rmtree(tmp_path / ".edgekd" / "runs")
    command = ["run", "tiny.yaml", "--threads", "1"]
    killed = edgekd(*command, cwd=tmp_path, wrapper=KILL + MID_MEASURE)
    assert killed.code == -signal.SIGKILL, f"the point was never reached: {killed.err}"
    again = edgekd(*command, cwd=tmp_path)
    assert again.code == tiny_run.first.code, again.err
    assert digests(run_of(tmp_path)) == digests(tiny_run.folder)
    assert accuracies(run_of(tmp_path)) == accuracies(tiny_run.folder)
    assert left_behind(tmp_path) == []


def run_of(root: Path) -> Path:
    (folder,) = (root / ".edgekd" / "runs" / "tiny").iterdir()
    return folder


def left_behind(root: Path) -> list[str]:
    """Unfinished work that nobody would pick up again."""
    return [path.name for path in (root / ".edgekd" / "work").iterdir()]
