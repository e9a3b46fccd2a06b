"""A device behind a virtual cable whose every part can be broken, and the command that measures on it."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekd.targets.host_keys import HostKey
from edgekd.targets.traces import processes_of
from tests.devices.cable import Cable, laid
from tests.devices.sshd import NAME, Sshd, children, command_of

ROUND = Path(__file__).with_name("fault_round.py")
DISK = "48m"
OVER_S = 600.0
"""How long one command may take at most: an error that comes later is none."""
SOON_S = 15.0
"""How long the device may take to clean up after a command that has ended."""


@dataclass
class Attempt:
    """One run of the command: exit code (negative: a signal), its events, what it told of its failure."""

    code: int
    events: list[dict[str, Any]]
    said: str
    seconds: float

    @property
    def measured(self) -> dict[str, Any] | None:
        return next((event for event in self.events if event["event"] == "measured"), None)


@dataclass
class Scene:
    """The device, and one journal: `start` begins the command, `end` waits for it."""

    folder: Path
    cable: Cable
    server: Sshd
    pinned: HostKey
    running: subprocess.Popen[str] | None = None
    kept: dict[str, Any] = field(default_factory=dict)
    """What a fault has to remember until it is repaired."""

    # --- the command ----------------------------------------------------------------------------------------

    def new_journal(self) -> Path:
        work = Path(tempfile.mkdtemp(prefix="round-", dir=self.folder))
        target = self.server.target(
            host_key=self.pinned.line, fingerprint=self.pinned.fingerprint, python=str(self.python)
        )
        (work / "target.json").write_text(target.model_dump_json())
        return work

    def start(self, work: Path) -> None:
        out, err = (work / "out").open("w"), (work / "err").open("w")
        with out, err:
            words = [sys.executable, str(ROUND), str(work)]
            self.running = subprocess.Popen(words, stdout=out, stderr=err, text=True)
        self.kept["started"] = time.monotonic()

    def end(self, work: Path) -> Attempt:
        assert self.running is not None
        try:
            code = self.running.wait(OVER_S)
        except subprocess.TimeoutExpired:
            self.running.kill()
            self.running.wait()
            code = -999
        seconds = time.monotonic() - self.kept["started"]
        events = []
        for line in (work / "out").read_text().splitlines():
            with contextlib.suppress(ValueError):  # a killed command's last line
                events.append(json.loads(line))
        return Attempt(code, events, (work / "err").read_text().strip(), round(seconds, 2))

    def attempt(self, work: Path) -> Attempt:
        self.start(work)
        return self.end(work)

    def over(self) -> bool:
        return self.running is not None and self.running.poll() is not None

    def wait_for(self, found: Callable[[], Any]) -> Any:
        """What `found` gives as soon as it is something; None when the command ended before."""
        while not self.over():
            if value := found():
                return value
            time.sleep(0.005)
        return None

    # --- what there is --------------------------------------------------------------------------------------

    @property
    def python(self) -> Path:
        return self.server.folder / "python"

    def agents(self) -> list[int]:
        """What runs in the session's folder."""
        return [pid for folder in self.server.sessions for pid in processes_of(folder)]

    def logins(self) -> list[int]:
        """sshd's processes that serve a connection."""
        return [pid for pid in children(self.server.process.pid) if command_of(pid).startswith(b"sshd")]

    def uploads(self) -> list[int]:
        """What receives a file on the device."""
        return [pid for pid in children(self.server.process.pid) if command_of(pid).startswith(b"cat")]

    def clients(self) -> list[int]:
        """The command's own ssh processes."""
        assert self.running is not None
        return [pid for pid in children(self.running.pid) if b"ControlPath" in command_of(pid)]

    def logged_in(self) -> list[int]:
        """What the server ever started and still runs, whoever its parent is by now."""
        mark, found = f"EDGEKD_LEASE_DIR={self.server.folder}/lease".encode(), []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if mark in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
        return found

    def phase(self) -> str:
        """Where the command is, for the record."""
        if self.over():
            return "over"
        if self.uploads():
            return "upload"
        if self.agents():
            return "agent"
        return "session" if self.server.keepers() else "before or after the session"

    # --- what must not be left ------------------------------------------------------------------------------

    def left(self) -> list[str]:
        """On the device: folders, tickets, processes, files."""
        found = [f"folder {path.name}" for path in self.server.sessions]
        found += [f"ticket {path.name}" for path in self.server.tickets]
        found += [f"process {command_of(pid)[:60]!r}" for pid in self.logged_in()]
        files = (path for path in self.server.home.rglob("*") if path.is_file())
        return found + [f"file {path.relative_to(self.server.home)}" for path in files]

    def left_here(self) -> list[str]:
        """On this machine: processes of ssh that nobody waits for any more."""
        mark = str(self.server.key).encode()
        numbers = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
        return [f"process {command_of(pid)[:60]!r}" for pid in numbers if mark in command_of(pid)]

    def soon(self, left: Callable[[], list[str]]) -> list[str]:
        """What is still left after a while."""
        deadline = time.monotonic() + SOON_S
        while (found := left()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found


@contextmanager
def scene(folder: Path) -> Iterator[Scene]:
    """A device that this process's environment knows, and whose disk is small and its own.

    Afterwards nothing of it is left on this machine.
    """
    disk = folder / "disk"
    disk.mkdir()
    _run("mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(disk))
    try:  # the server's namespace is copied from ours when it starts, so the disk has to be there before
        with laid(disk / "device") as (cable, server):
            here = {"PATH": f"{cable.bin}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
            os.environ.update({**here, **server.environment()})
            made = Scene(folder, cable, server, server.host_key)
            restore_python(made)
            yield made
    finally:
        _run("umount", "-l", str(disk))


def restore_python(made: Scene) -> None:
    """The device's Python: a program that may be taken away."""
    made.python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    made.python.chmod(0o755)


def send(pids: list[int] | None, number: int) -> bool:
    """Whether there was one that got the signal."""
    hit = False
    for pid in pids or []:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            hit = True
    return hit


def is_clear(attempt: Attempt, server: Sshd) -> bool:
    """An error for a person: the device's name, no address, no traceback."""
    hidden = all(secret not in attempt.said for secret in (server.host, str(server.port), "Traceback"))
    return attempt.code == 4 and attempt.said.startswith(f"{NAME}: ") and hidden


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


KILL, STOP, CONTINUE = signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT
