"""This machine as a target: private folder, fresh processes, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from edgekd.core.errors import TargetError
from edgekd.targets import folders
from edgekd.targets.local import LocalSession, LocalTarget
from edgekd.targets.target import Session

TARGET = LocalTarget(name="local")


def folder_of(session: Session) -> Path:
    assert isinstance(session, LocalSession)
    return session.folder


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_files_go_there_and_come_back(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"\x00content")
    with TARGET.session() as session:
        remote = session.push(tmp_path / "in", "out")
        finished = session.run(["cat", remote], timeout_s=10)
        session.pull(remote, tmp_path / "back")
    assert finished.stdout == b"\x00content"
    assert (tmp_path / "back").read_bytes() == b"\x00content"


def test_nothing_stays_behind() -> None:
    with TARGET.session() as session:
        folder = folder_of(session)
        session.run(["touch", "left"], timeout_s=10)
        assert (folder / "left").exists()
    assert not folder.exists()


def test_nothing_stays_behind_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), TARGET.session() as session:
        folder = folder_of(session)
        raise ZeroDivisionError
    assert not folder.exists()


def test_the_folder_is_private() -> None:
    with TARGET.session() as session:
        assert folder_of(session).stat().st_mode & 0o077 == 0


def test_exit_code_and_both_streams_are_kept_apart() -> None:
    with TARGET.session() as session:
        finished = session.run(["sh", "-c", "cat; echo err >&2; exit 7"], stdin=b"in", timeout_s=10)
    assert (finished.code, finished.stdout, finished.stderr) == (7, b"in", b"err\n")


def test_a_killed_command_has_its_signal_as_code() -> None:
    with TARGET.session() as session:
        assert session.run(["sh", "-c", "kill -9 $$"], timeout_s=10).code == -signal.SIGKILL


def test_a_command_that_takes_too_long_is_killed_with_its_children() -> None:
    with TARGET.session() as session:
        folder = folder_of(session)
        with pytest.raises(TargetError, match="within 1 s") as raised:
            session.run(["sh", "-c", "sleep 60 & echo $! > child; echo tail >&2; wait"], timeout_s=0.6)
        child = int((folder / "child").read_text())
        deadline = time.monotonic() + 5
        while alive(child) and time.monotonic() < deadline:
            time.sleep(0.01)
    assert not alive(child)
    assert "tail" in str(raised.value)
    assert raised.value.exit_code == 4


def test_a_command_that_does_not_exist_is_a_lost_target() -> None:
    with TARGET.session() as session, pytest.raises(TargetError, match="cannot start"):
        session.run(["/no/such/program"], timeout_s=5)


def test_a_file_that_is_not_there_cannot_be_pulled(tmp_path: Path) -> None:
    with TARGET.session() as session, pytest.raises(TargetError, match="cannot pull"):
        session.pull("absent", tmp_path / "x")


def test_the_callers_python_settings_do_not_reach_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    with TARGET.session() as session:
        script = "import os; print(os.environ.get('PYTHONPATH'), os.environ['GIVEN'])"
        finished = session.run([*session.python, "-c", script], timeout_s=10, env={"GIVEN": "yes"})
    assert finished.stdout.split() == [b"None", b"yes"]


def test_the_folder_of_a_killed_session_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(folders, "_YOUNG_S", -1.0)
    script = (
        "import os, signal\nfrom edgekd.targets.local import LocalTarget\n"
        "with LocalTarget(name='local').session():\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script], env={**os.environ, "TMPDIR": str(tmp_path)}, check=False)
    (orphan,) = tmp_path.iterdir()
    with TARGET.session() as one, TARGET.session() as other:
        assert not orphan.exists()
        assert folder_of(one).exists(), "a session in use is left alone"
        assert folder_of(other).exists()
