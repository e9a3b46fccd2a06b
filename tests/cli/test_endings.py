"""Real endings of real processes: signals, divergence, defects, lost targets, full disks. No mocks.

The codes that need no running command are looked at in test_exit_codes.py; those of a verdict (0, 1, 3) in
test_without_torch.py and tests/pipeline/test_run.py, where also --max-time (75) is.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgekd.core.run_record import RunRecord
from edgekd.store.store import Store
from tests.cli.running import edgekd, environment
from tests.pipeline.small_run import make_run


def _clear(done: subprocess.CompletedProcess[str]) -> None:
    """One screen for a person."""
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr
    assert 0 < len(done.stderr.splitlines()) <= 25, done.stderr


# --- training -----------------------------------------------------------------------------------------------

TRAINING = """
teacher: {network: resnet_cifar, args: {depth: 8, width: 0.5}, batch_size: 32, epochs: 8}
steps: [teacher, {student: {network: resnet_cifar, args: {depth: 8}}}, distill, export]
"""
UNTIL_TEACHER = ("run", "r.yaml", "--until", "teacher", "--threads", "1")


def _start(*arguments: str, folder: Path, **changes: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "edgekd.cli.main", *arguments],
        cwd=folder,
        env=environment(**changes),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_for(process: subprocess.Popen[str], words: str) -> str:
    """What it told up to the line with `words`."""
    assert process.stderr is not None
    told = ""
    for line in process.stderr:
        told += line
        if words in line:
            return told
    raise AssertionError(f"it ended without `{words}`:\n{told}")


def _digest_of_teacher(folder: Path) -> str | None:
    (path,) = (folder / ".edgekd" / "runs" / "r").glob("*/record.json")
    record = RunRecord.model_validate_json(path.read_bytes())
    return next(step.digest for step in record.steps if step.name == "teacher")


@pytest.mark.runs
@pytest.mark.timeout(300)
def test_130_and_143_in_the_middle_of_training_and_the_same_command_continues(tmp_path: Path) -> None:
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "r.yaml").write_text(TRAINING)
    assert edgekd(*UNTIL_TEACHER, folder=tmp_path / "whole").returncode == 0
    stopped = tmp_path / "stopped"
    for epoch, number, code in ((2, signal.SIGINT, 130), (4, signal.SIGTERM, 143)):
        process = _start(*UNTIL_TEACHER, folder=stopped)
        told = _wait_for(process, f"epoch {epoch}/8")
        assert epoch == 2 or "training continues at step" in told
        process.send_signal(number)
        rest = process.communicate(timeout=60)[1]
        assert process.returncode == code, rest
        assert "run the same command again to continue" in rest
        assert "Traceback" not in rest
    done = edgekd(*UNTIL_TEACHER, folder=stopped)
    assert done.returncode == 0, done.stderr
    assert "training continues at step" in done.stderr
    assert _digest_of_teacher(stopped) == _digest_of_teacher(tmp_path / "whole")


@pytest.mark.timeout(200)
def test_7_where_training_diverges_names_step_and_term_and_keeps_the_last_good_checkpoint(
    tmp_path: Path,
) -> None:
    # lr * weight decay = 100: the weights grow by that factor with every step, through batch norm unnoticed
    # until they leave the range of float32.
    (tmp_path / "r.yaml").write_text(TRAINING.replace("epochs: 8", DIVERGING))
    done = edgekd(*UNTIL_TEACHER, folder=tmp_path)
    assert done.returncode == 7, done.stderr
    assert re.search(r"term `task` became (nan|inf) at step \d+", done.stderr)
    (kept,) = re.findall(r"the last good checkpoint is (\S+)", done.stderr)
    assert Path(kept).is_file()
    _clear(done)


DIVERGING = "epochs: 8, schedule: constant, learning_rate: 0.05, weight_decay: 40.0, augment: none"


BROKEN_STAGE = """
import edgekd.stages.teacher as stage
def broken(*arguments): raise ZeroDivisionError("of all things")
stage._model = broken
"""


BROKEN_LIST = """
import edgekd.targets.devices_file as file
def broken(*arguments): raise ZeroDivisionError("of all things")
file.read_targets = broken
"""


@pytest.mark.parametrize(
    ("wrapper", "arguments", "asked"),
    [(BROKEN_STAGE, UNTIL_TEACHER, ""), (BROKEN_LIST, ("list", "targets"), "1")],
)
def test_70_for_a_defect_is_told_without_a_traceback_unless_asked(
    tmp_path: Path, wrapper: str, arguments: tuple[str, ...], asked: str
) -> None:
    (tmp_path / "r.yaml").write_text(TRAINING)
    done = subprocess.run(
        [sys.executable, "-c", f"{wrapper}from edgekd.cli.main import main\nmain()", *arguments],
        cwd=tmp_path,
        env=environment(EDGEKD_TRACEBACK=asked),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 70, done.stderr
    assert "internal error: ZeroDivisionError: of all things" in done.stderr
    assert ("Traceback" in done.stderr) is bool(asked)


# --- targets ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the store of a small measured run: no training, so no torch."""
    folder = tmp_path_factory.mktemp("measured")
    make_run(Store(folder / ".edgekd"), folder)
    done = edgekd("measure", "small", folder=folder)
    assert done.returncode == 0, done.stderr
    return folder


def _run_of(folder: Path) -> Path:
    (run,) = (folder / ".edgekd" / "runs" / "small").iterdir()
    return run


def _agents_of(process: subprocess.Popen[str]) -> list[int]:
    """The living agents that a process of edgekd waits for."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
            command = (status.parent / "cmdline").read_bytes()
        except (OSError, ValueError, IndexError):
            continue
        if parent == process.pid and b"agent.py" in command:
            found.append(int(status.parent.name))
    return found


def _agent_of(process: subprocess.Popen[str]) -> int:
    """The agent that is measuring, once there is one."""
    for _ in range(3000):
        if agents := _agents_of(process):
            return agents[0]
        assert process.poll() is None, "it ended before an agent was seen"
        time.sleep(0.01)
    raise AssertionError("no agent was started")


def _wait_for_answers(folder: Path, process: subprocess.Popen[str]) -> None:
    """Until the first answers of the session are in its journal."""
    for _ in range(3000):
        if any(path.stat().st_size for path in (folder / ".edgekd" / "work").glob("session-*/journal.jsonl")):
            return
        assert process.poll() is None, "it ended before anything was measured"
        time.sleep(0.01)
    raise AssertionError("nothing was measured")


def _is_alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def test_4_where_the_agent_is_killed_and_the_old_measurements_stay(measured: Path) -> None:
    before = (_run_of(measured) / "measurements.jsonl").read_bytes()
    process = _start("measure", "small", folder=measured)
    _wait_for_answers(measured, process)
    os.killpg(os.getpgid(_agent_of(process)), signal.SIGKILL)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 4, told
    assert "killed by signal 9" in told
    assert "local" in told
    assert (_run_of(measured) / "measurements.jsonl").read_bytes() == before


def test_4_for_a_target_whose_cores_do_not_exist(measured: Path, tmp_path: Path) -> None:
    shutil.copytree(measured / ".edgekd", tmp_path / ".edgekd", symlinks=True)
    (tmp_path / "edgekd-devices.yaml").write_text("board: {kind: local, cores: [4000]}\n")
    done = edgekd("measure", "small", "--target", "board", folder=tmp_path)
    assert done.returncode == 4, done.stderr
    assert "board" in done.stderr
    _clear(done)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_no_agent_outlives_a_command_that_was_stopped(measured: Path, number: int, code: int) -> None:
    before = (_run_of(measured) / "measurements.jsonl").read_bytes()
    process = _start("measure", "small", folder=measured)
    agent = _agent_of(process)
    process.send_signal(number)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == code, told
    for _ in range(200):
        if not _is_alive(agent):
            break
        time.sleep(0.01)
    assert not _is_alive(agent)
    assert (_run_of(measured) / "measurements.jsonl").read_bytes() == before


# --- the disk -----------------------------------------------------------------------------------------------


def _on_a_small_disk(folder: Path, size: str, command: str) -> subprocess.CompletedProcess[str]:
    """Run a shell command in a private mount namespace in which `folder` is a file system of `size`."""
    if shutil.which("unshare") is None:
        pytest.skip("`unshare` is not installed: no small disk to fill")
    script = f"mount -t tmpfs -o size={size} small '{folder}' || exit 99; {command}"
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", script],
        cwd=folder.parent,
        env=environment(TMPDIR=str(folder)),
        capture_output=True,
        text=True,
        timeout=100,
    )
    if done.returncode in (1, 99) and ("unshare" in done.stderr or "mount" in done.stderr):
        pytest.skip(f"no private file system can be mounted here: {done.stderr.strip()}")
    return done


def test_5_on_a_disk_that_training_fills_up(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "r.yaml").write_text(TRAINING.replace("epochs: 8", "epochs: 2"))
    run = f"'{sys.executable}' -m edgekd.cli.main {' '.join(UNTIL_TEACHER)} --store disk/store"
    done = _on_a_small_disk(tmp_path / "disk", "600k", f"{run}; code=$?; find disk -name '*.tmp'; exit $code")
    assert done.returncode == 5, done.stderr
    assert "No space left" in done.stderr
    assert done.stdout.strip() == "", "a temporary file was left behind"
    _clear(done)


def test_5_on_a_read_only_disk(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    command = f"mount -o remount,ro '{tmp_path / 'disk'}' || exit 99; "
    command += f"'{sys.executable}' -m edgekd.cli.main store size --store disk/store"
    done = _on_a_small_disk(tmp_path / "disk", "1m", command)
    assert done.returncode == 5, done.stderr
    assert "Read-only file system" in done.stderr
    _clear(done)


# --- the terminal -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["show", "small"], ["report", "small", "--out", "out"]])
def test_a_terminal_without_unicode_is_no_error(measured: Path, arguments: list[str]) -> None:
    done = edgekd(*arguments, folder=measured, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert done.returncode == 0, done.stderr
    assert done.stdout
