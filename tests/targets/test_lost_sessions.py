"""Notes of sessions: only one whose process or link is gone is lost."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from edgekd.targets import lost_sessions
from edgekd.targets.lost_sessions import Note

KILLED = """
import sys, time
from edgekd.targets.lost_sessions import Note
note = Note("pi5", "c0ffee")
print("noted", flush=True)
time.sleep(100)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path / f"edgekd-sessions-{os.getuid()}"


def test_a_session_that_lasts_is_not_lost() -> None:
    note = Note("pi5", "c0ffee")
    assert lost_sessions.lost_sessions("pi5") == []
    note.close(lost=False)


def test_a_session_that_ended_well_leaves_no_note(folder: Path) -> None:
    Note("pi5", "c0ffee").close(lost=False)
    assert list(folder.iterdir()) == []


def test_a_session_whose_link_broke_is_lost_on_its_own_device() -> None:
    Note("pi5", "c0ffee").close(lost=True)
    Note("pi5.lan", "beef").close(lost=True)
    assert lost_sessions.lost_sessions("pi5") == ["c0ffee"]
    assert lost_sessions.lost_sessions("pi5.lan") == ["beef"]
    assert lost_sessions.lost_sessions("pi") == []


def test_a_session_whose_process_was_killed_is_lost() -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert lost_sessions.lost_sessions("pi5") == []
        process.kill()
    assert lost_sessions.lost_sessions("pi5") == ["c0ffee"]


def test_what_no_keeper_can_remember_is_forgotten(folder: Path) -> None:
    Note("pi5", "c0ffee").close(lost=True)
    os.utime(folder / "pi5.c0ffee", (0, 0))
    assert lost_sessions.lost_sessions("jetson") == []
    assert list(folder.iterdir()) == []


def test_a_folder_that_others_may_write_is_not_believed(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "pi5.c0ffee").touch()
    assert lost_sessions.lost_sessions("pi5") == []
    note = Note("pi5", "beef")
    note.touch()
    note.close(lost=True)
    assert [path.name for path in folder.iterdir()] == ["pi5.c0ffee"]
