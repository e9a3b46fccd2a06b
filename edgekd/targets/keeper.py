"""Keeps one session on a device: its place in the queue, its folder, and its end. Python 3.8.

Sent to a device through the standard input of `python3 -c`, with `tickets.py` and `traces.py`, and run there
as long as the session lasts; imports only these and the standard library.

It prints one JSON object a line, each with `"keeper": 1` and an `event`: `queued` (whose turn it is), `busy`
(and ends), `ready` (the session's folder and what the device says of itself), `reply` (to a request, see
`Keeper.answer`), `over` and `error` (and ends). Its input is the host's pulse: any line is a sign of life, an
object is a request. When the input ends or is silent for too long, whoever was at the other end is gone: it
kills what runs in the folder and removes it. Commands are its children, so that none costs the start of a
login shell.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import platform
import select
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

from edgekd.targets.tickets import Ticket, holders, lease_folder
from edgekd.targets.traces import (
    VARIABLE,
    Cache,
    cache_home,
    kill_all,
    make_session,
    remove_orphans,
    remove_session,
    sha256,
)

PROTOCOL = 1
_TICK_S = 5.0
_DEAF_S = 60.0
_PIECE = 4096
_PATIENCE_S = 10.0
"""How long a keeper that is told to end may take: killing and removing take their time."""


class Ended(Exception):
    """The session is over, for the reason given."""


class Command:
    """One command of the session under way. Raises `OSError` if it cannot be started."""

    def __init__(self, request: dict[str, Any], folder: Path) -> None:
        self.id = request["id"]
        self._deadline, self._late = time.monotonic() + request["timeout_s"], False
        self.process = subprocess.Popen(
            request["argv"],
            cwd=str(folder),
            env={**os.environ, VARIABLE: folder.name, **request["env"]},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self.process.stdout is not None and self.process.stderr is not None
        self._heard = {self.process.stdout.fileno(): b"", self.process.stderr.fileno(): b""}
        self._open = list(self._heard)
        data = base64.b64decode(request["stdin"])
        threading.Thread(target=self._feed, args=(data,), daemon=True).start()

    def _feed(self, data: bytes) -> None:
        """In a thread of its own: a command that does not read must not keep us from hearing the host."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.write(data)
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def streams(self) -> list[int]:
        return self._open

    def patience_s(self) -> float:
        """How long it need not be looked at, if it prints nothing."""
        left = self._deadline - time.monotonic() if not self._late else _TICK_S
        return max(0.0, left) if self._open else min(0.05, max(0.0, left))

    def proceed(self, readable: list[int]) -> bool:
        """Take what it printed; returns whether it is over. One that exceeds its limit is killed."""
        for stream in [stream for stream in self._open if stream in readable]:
            piece = os.read(stream, 1 << 16)
            self._heard[stream] += piece
            if not piece:
                self._open.remove(stream)
        if time.monotonic() > self._deadline and not self._late:
            self._late = True
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)
        return not self._open and self.process.poll() is not None

    def forget(self) -> None:
        """It was killed, and nobody wants to know what it said."""
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        self.process.poll()

    def outcome(self) -> dict[str, Any]:
        stdout, stderr = self._heard.values()
        code = self.process.returncode
        return {"code": code, "late": self._late, "stdout": _text(stdout), "stderr": _text(stderr)}


class Keeper:
    """One session. `settings`: who, id, lease, wait_s, silence_s, cache_bytes, replaces (ids)."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.ticket: Ticket | None = None
        self.folder: Path | None = None
        self._lock = -1
        self.command: Command | None = None
        self._heard, self._rest = time.monotonic(), b""
        self._told: dict[str, float] = {}
        self.home = cache_home()
        self.cache = Cache(self.home / "objects", settings["cache_bytes"])

    def run(self) -> None:
        """The whole life; returns when the session is over."""
        try:
            if self.settings["lease"]:
                self._queue()
            orphans = remove_orphans(self.home / "sessions")
            self.folder, self._lock = make_session(self.home / "sessions")
            say("ready", **_about(self.folder), orphans=orphans)
            while True:
                self._listen(min(_TICK_S, self.settings["silence_s"] / 4))
        finally:
            self._end()

    def _queue(self) -> None:
        note = {"who": self.settings["who"], "id": self.settings["id"]}
        self.ticket = Ticket(lease_folder(), note)
        deadline = time.monotonic() + self.settings["wait_s"]
        told: list[str] = []
        while True:
            ahead = self.ticket.ahead()
            if not ahead:
                return
            self._replace(ahead)
            if time.monotonic() >= deadline and not self._all_replaced(ahead):
                say("busy", holder=_shown(ahead[0]), before=len(ahead))
                raise Ended("busy")
            ids = [str(note.get("id")) for note in ahead]
            if ids != told:
                told = ids
                say("queued", holder=_shown(ahead[0]), before=len(ahead))
            self._listen(0.2 if self._all_replaced(ahead) else 1.0)

    def _all_replaced(self, ahead: list[dict[str, Any]]) -> bool:
        return all(note.get("id") in self.settings["replaces"] for note in ahead)

    def _replace(self, ahead: list[dict[str, Any]]) -> None:
        """End the keepers of sessions that our own host has lost: nobody else can know of them yet.

        One that does not hear is killed; what it leaves is removed as any orphan is.
        """
        for note in ahead:
            if note["ours"] and note.get("id") in self.settings["replaces"]:
                told = self._told.setdefault(note["id"], time.monotonic())
                deaf = time.monotonic() - told > _PATIENCE_S
                with contextlib.suppress(OSError):
                    os.kill(int(note["pid"]), signal.SIGKILL if deaf else signal.SIGTERM)

    def _listen(self, seconds: float) -> None:
        """Hear the host and the command for that long; answer what is asked. Raises `Ended`."""
        if self._lock >= 0:
            os.utime(self._lock)
        streams = [] if self.command is None else self.command.streams()
        seconds = seconds if self.command is None else min(seconds, self.command.patience_s())
        readable, _, _ = select.select([0, *streams], [], [], seconds)
        if 0 in readable:
            self._hear(os.read(0, 1 << 16))
        if self.command is not None and self.command.proceed(readable):
            command, self.command = self.command, None
            say("reply", id=command.id, **command.outcome())
        if time.monotonic() - self._heard > self.settings["silence_s"]:
            raise Ended(f"no sign of life from here for {self.settings['silence_s']:.0f} s")
        if self.ticket is not None and self.ticket.expired():
            raise Ended("the device did not hear us for so long that its place in the queue was lost")

    def _hear(self, data: bytes) -> None:
        if not data:
            raise Ended("the host hung up")
        self._heard = time.monotonic()
        if self.ticket is not None:
            self.ticket.touch()
        self._rest += data
        if b"\n" in data:
            *lines, self._rest = self._rest.split(b"\n")
            for line in lines:
                if line.strip():
                    self._reply(json.loads(line))

    def _reply(self, request: dict[str, Any]) -> None:
        try:
            answer = self.answer(request)
        except OSError as error:
            answer = {"error": error.strerror or str(error)}
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                answer["free_bytes"] = self._free_bytes()
        if answer is not None:
            say("reply", id=request["id"], **answer)
        self._heard = time.monotonic()  # a large file's digest takes its time

    def answer(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """What is asked for; None: the answer comes later.

        `run` a command, `kill` what runs, tell the `free` space, `write` and `read` a small file, `link` one
        from the cache, `keep` one in it.
        """
        assert self.folder is not None
        do = request["do"]
        if do == "run" and self.command is None:
            self.command = Command(request, self.folder)
            return None
        if do == "kill":
            return {"killed": self._kill()}
        if do == "free":
            return {"free_bytes": self._free_bytes()}
        if do in ("write", "read", "link", "keep"):
            path = self.folder / request["name"]
            return getattr(self, "_" + do)(path, request)  # type: ignore[no-any-return]
        return {"error": "not a request"}

    def _kill(self) -> int:
        assert self.folder is not None
        killed = kill_all(self.folder)
        if self.command is not None:
            self.command.forget()
            self.command = None
        return killed

    def _free_bytes(self) -> int:
        return shutil.disk_usage(str(self.folder)).free

    def _write(self, path: Path, request: dict[str, Any]) -> dict[str, Any]:
        part = path.with_name(path.name + ".part")
        try:
            part.write_bytes(base64.b64decode(request["data"]))
            part.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink()
            raise
        return {}

    def _read(self, path: Path, request: dict[str, Any]) -> dict[str, Any]:
        """The content, or the size alone where that is more than the host wants in one answer."""
        size = path.stat().st_size
        return {"size": size, "data": _text(path.read_bytes())} if size <= request["most"] else {"size": size}

    def _link(self, path: Path, request: dict[str, Any]) -> dict[str, Any]:
        return {"hit": self.cache.link(request["sha256"], path)}

    def _keep(self, path: Path, request: dict[str, Any]) -> dict[str, Any]:
        if sha256(path) != request["sha256"]:
            return {"error": "it arrived damaged"}
        self.cache.keep(request["sha256"], path)
        return {}

    def _end(self) -> None:
        _on_signal(signal.SIG_IGN)
        if self.folder is not None:
            remove_session(self.folder)
        if self._lock >= 0:
            os.close(self._lock)
        if self.ticket is not None:
            self.ticket.leave()


def _about(folder: Path) -> dict[str, Any]:
    return {
        "folder": str(folder),
        "home": str(Path("~").expanduser()),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "free_bytes": shutil.disk_usage(str(folder)).free,
        "queue": [_shown(note) for note in holders(lease_folder())],
    }


def _shown(note: dict[str, Any]) -> dict[str, Any]:
    return {"who": note["who"], "for_s": note["for_s"]}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def say(event: str, **fields: Any) -> None:
    """One line to the host; not for ever, if it does not read. Raises `Ended`."""
    said = json.dumps({"keeper": PROTOCOL, "event": event, **fields})
    line = f"\n{said}\n".encode()  # a login shell's chatter may have ended in the midst of a line
    while line:
        if not select.select([], [1], [], _DEAF_S)[1]:
            raise Ended("the host does not listen")
        try:
            line = line[os.write(1, line[:_PIECE]) :]
        except OSError:
            raise Ended("nobody listens") from None


def _on_signal(action: Any) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, action)


def _stop(number: int, frame: Any) -> None:
    _on_signal(signal.SIG_IGN)  # the first one ends the session, a second one must not end its end
    raise Ended(f"its keeper was told to stop (signal {number})")


def main(settings: dict[str, Any]) -> int:
    _on_signal(_stop)
    os.umask(0o077)
    try:
        Keeper(settings).run()
    except Ended as ended:
        with contextlib.suppress(Ended):
            say("over", reason=str(ended))
        return 0
    except OSError as error:
        with contextlib.suppress(Ended):
            say("error", message=f"{error.filename or 'the device'}: {error.strerror or error}")
        return 1
    return 0
