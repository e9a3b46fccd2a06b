"""This machine as a target: fresh processes in a private temporary folder."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from edgekd.core.errors import TargetError
from edgekd.targets.target import Finished, Session, Target

_TAIL_BYTES = 2000
_PREFIX = "edgekd-target-"
_LOCK = ".lock"
_YOUNG_S = 60.0
_DROPPED = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONDEVMODE", "PYTHONWARNINGS", "LD_PRELOAD")


class LocalTarget(Target):
    """The machine edgekd runs on."""

    kind: Literal["local"] = "local"

    @contextmanager
    def session(self) -> Iterator[Session]:
        _remove_orphans()
        try:
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        except OSError as error:
            raise TargetError(f"cannot make a temporary folder: {error}", where=self.name) from error
        try:
            with (folder / _LOCK).open("wb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield LocalSession(self.name, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_orphans() -> None:
    """Remove the folders of sessions that were killed: nobody holds their lock."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            if time.time() - folder.stat().st_mtime < _YOUNG_S:
                continue  # its owner may not have locked it yet
            with (folder / _LOCK).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # in use, gone already, or somebody else's


class LocalSession(Session):
    """A temporary folder; a command is a child process in a process group of its own."""

    python = (sys.executable, "-B")

    def __init__(self, target: str, folder: Path) -> None:
        self.target = target
        self.folder = folder

    def push(self, local: Path, name: str | None = None) -> str:
        name = name or local.name
        try:
            shutil.copyfile(local, self.folder / name)
        except OSError as error:
            raise TargetError(f"cannot push {local}: {error}", where=self.target) from error
        return name

    def pull(self, remote: str, local: Path) -> None:
        try:
            source = (self.folder / remote).open("rb")
        except OSError as error:
            raise TargetError(f"cannot pull {remote}: {error}", where=self.target) from error
        with source, local.open("wb") as copy:  # a full disk here is the host's, not the target's
            shutil.copyfileobj(source, copy)

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout_s: float,
        env: Mapping[str, str] | None = None,
    ) -> Finished:
        try:
            process = subprocess.Popen(
                list(argv),
                cwd=self.folder,
                env={**_clean_environment(), **(env or {})},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise TargetError(f"cannot start {argv[0]}: {error}", where=self.target) from error
        with process:
            return self._wait(process, stdin, timeout_s)

    def _wait(self, process: subprocess.Popen[bytes], stdin: bytes, timeout_s: float) -> Finished:
        try:
            stdout, stderr = process.communicate(stdin, timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            _kill_group(process)
            _, stderr = process.communicate()
            tail = stderr[-_TAIL_BYTES:].decode(errors="replace").strip()
            raise TargetError(
                f"no answer within {timeout_s:.0f} s, killed; its last words: {tail or '(none)'}",
                where=self.target,
            ) from error
        except BaseException:  # Ctrl-C among them: nothing may be left running
            _kill_group(process)
            raise
        return Finished(process.returncode, stdout, stderr)


def _clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _DROPPED}


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and what it started. Not once it was reaped: its number may then be a stranger's."""
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)
