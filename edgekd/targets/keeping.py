"""This machine's end of a keeper: starts it on the device, gives it signs of life, asks it, ends it."""

from __future__ import annotations

import base64
import json
import queue
import secrets
import shlex
import subprocess
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import resources
from typing import Any

from edgekd.core.errors import TargetError
from edgekd.targets import lease
from edgekd.targets.lost_sessions import Note, lost_sessions
from edgekd.targets.processes import kill_group, late
from edgekd.targets.target import Finished
from edgekd.targets.transport import Transport, full_disk

BEAT_S = 10.0
SILENCE_S = 60.0
"""How long a device goes on without a sign of life: a stopped process, a pulled cable."""
_START_S = 60.0
_ASK_S = 120.0
_END_S = 20.0
_MODULES = ("traces", "tickets", "keeper")
_OLD_PYTHON = "edgekd-needs-python-3.8"
_CHATTER_LINES = 20


class KeeperLink:
    """One keeper. `settings` are added to those that every session has."""

    def __init__(self, transport: Transport, python: str, **settings: Any) -> None:
        self._transport, self._python = transport, python
        self._id = secrets.token_hex(8)
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._chatter: deque[str] = deque(maxlen=_CHATTER_LINES)
        self._writing, self._over = threading.Lock(), threading.Event()
        self._number, self._queued = 0, False
        program = _program({**self._settings(), **settings})
        self._note = Note(transport.name, self._id)
        try:
            self._process = transport.start(_command(python, len(program)))
        except BaseException:
            self._note.close(lost=False)
            raise
        for work in (self._read, self._beat):
            threading.Thread(target=work, name=f"edgekd-{transport.name}", daemon=True).start()
        self._write(program)

    def _settings(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "who": lease.who(),
            "wait_s": lease.wait_s(),
            "silence_s": SILENCE_S,
            "replaces": lost_sessions(self._transport.name),
        }

    def ready(self) -> dict[str, Any]:
        """Wait for the session's folder, and for our turn before. Raises `TargetError`, also when busy."""
        while True:
            said = self._next(_START_S + (lease.wait_s() if self._queued else 0.0))
            if said["event"] == "ready":
                return said
            if said["event"] == "queued":
                self._queued = True
                lease.tell_queue(self._transport.name, said["holder"], said["before"])
            elif said["event"] == "busy":
                raise lease.busy(self._transport.name, said["holder"], said["before"])
            else:
                raise TargetError(f"no session there: {said.get('message')}", where=self._transport.name)

    def ask(self, do: str, *, patience_s: float = _ASK_S, **fields: Any) -> dict[str, Any]:
        """What the keeper answers to one request (`Keeper.answer`). Raises `TargetError`."""
        number = self._request(do, **fields)
        while (said := self._next(patience_s)).get("id") != number:
            continue
        if "error" in said:
            raise self._refusal(_doing(do, fields), said)
        return said

    def _request(self, do: str, **fields: Any) -> int:
        self._number += 1
        self._write(json.dumps({"id": self._number, "do": do, **fields}).encode() + b"\n")
        return self._number

    def run(self, argv: Sequence[str], *, stdin: bytes, timeout_s: float, env: Mapping[str, str]) -> Finished:
        """One command in the session's folder. Raises `TargetError` as `Session.run` does."""
        fields = {"argv": list(argv), "env": dict(env), "stdin": _text(stdin), "timeout_s": timeout_s}
        try:
            said = self.ask("run", patience_s=timeout_s + _ASK_S, **fields)
        except BaseException:  # Ctrl-C among them: nothing may be left running there
            self._request("kill")  # and nobody waits for the answer
            raise
        finished = Finished(said["code"], _data(said["stdout"]), _data(said["stderr"]))
        if said["late"]:
            raise late(finished.stderr, timeout_s, self._transport.name)
        return finished

    def write(self, name: str, content: bytes) -> None:
        """A small file into the session's folder. Raises `TargetError`."""
        self.ask("write", name=name, data=_text(content))

    def read(self, name: str, most: int) -> bytes | None:
        """A file's content, or None if it has more than `most` bytes. Raises `TargetError`."""
        said = self.ask("read", name=name, most=most)
        return _data(said["data"]) if "data" in said else None

    def check(self) -> None:
        """Raise `TargetError` if the keeper has ended, and with it the session."""
        if self._process.poll() is not None:
            raise self._failure()

    def end(self) -> None:
        """Hang up: the keeper removes what the session left. Returns when it has, if it can be reached."""
        self._over.set()
        with suppress(OSError), self._writing:
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            kill_group(self._process)
            self._process.wait()
        self._note.close(lost=self._process.returncode != 0)

    def _refusal(self, doing: str, said: Mapping[str, Any]) -> TargetError:
        name = self._transport.name
        if "free_bytes" in said:
            return full_disk(name, doing, said["free_bytes"])
        return TargetError(f"cannot {doing}: {said['error']}", where=name)

    # --- the two threads ------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Sort what comes: the keeper's lines are answers, the others a login shell's or Python's words."""
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                said = _parsed(line)
                if said is None and line.strip():
                    self._chatter.append(line.decode(errors="replace").rstrip())
                elif said is not None:
                    self._answers.put(said)
        self._answers.put(None)

    def _beat(self) -> None:
        while not self._over.wait(BEAT_S):
            self._note.touch()
            self._write(b"\n")

    def _write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            with self._writing:
                self._process.stdin.write(data)
                self._process.stdin.flush()
        except (OSError, ValueError):  # broken, or closed already
            return  # the reason is what `_next` finds

    def _next(self, seconds: float) -> dict[str, Any]:
        try:
            said = self._answers.get(timeout=seconds)
        except queue.Empty:
            raise TargetError(
                f"no answer within {seconds:.0f} s",
                where=self._transport.name,
                fix="it may be overloaded, or its session stopped; run the same command again: it continues",
            ) from None
        if said is None or said["event"] == "over":
            self._answers.put(said)
            raise self._failure() if said is None else self._ended(said["reason"])
        return said

    def _ended(self, reason: str) -> TargetError:
        return TargetError(
            f"the session was ended there: {reason}",
            where=self._transport.name,
            fix="run the same command again: it continues where it was",
        )

    def _failure(self) -> TargetError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        chatter = "\n".join(self._chatter)
        return _no_python(self._transport.name, self._python, chatter) or self._transport.trouble()


def _doing(do: str, fields: Mapping[str, Any]) -> str:
    words = {"run": "start", "write": "push", "read": "pull", "keep": "push"}
    what = fields.get("name") or (fields["argv"][0] if "argv" in fields else "")
    return f"{words.get(do, do)} {what}".strip()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _data(text: str) -> bytes:
    return base64.b64decode(text)


def _program(settings: dict[str, Any]) -> bytes:
    """The keeper's modules and what starts them, as one text; its lines are in the order they are needed."""
    package = resources.files("edgekd.targets")
    texts = {
        f"edgekd.targets.{name}": (package / f"{name}.py").read_text(encoding="utf-8") for name in _MODULES
    }
    return (
        "import json, sys, types\n"
        f"for name, text in json.loads({json.dumps(texts)!r}).items():\n"
        "    sys.modules[name] = types.ModuleType(name)\n"
        "    exec(compile(text, name, 'exec'), sys.modules[name].__dict__)\n"
        f"sys.exit(sys.modules[name].main(json.loads({json.dumps(settings)!r})))\n"
    ).encode()


def _command(python: str, size: int) -> str:
    """Nothing but digits in it changes, so that no shell can misread it.

    -B: where the user may write into the system's folders, Python would leave its byte code there.
    """
    first = (
        f'import sys;sys.version_info<(3,8) and sys.exit("{_OLD_PYTHON} "+sys.version.split()[0]);'
        f"exec(sys.stdin.buffer.read({size}))"
    )
    return f"cd / && exec {shell_path(python)} -uB -c {shlex.quote(first)} 2>&1"


def shell_path(path: str) -> str:
    """A path for a shell line; `~/` is the home folder of whoever runs it."""
    return f'"$HOME"/{shlex.quote(path[2:])}' if path.startswith("~/") else shlex.quote(path)


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        said = json.loads(line)
    except ValueError:
        return None
    return said if isinstance(said, dict) and said.get("keeper") == 1 and "event" in said else None


def _no_python(name: str, python: str, chatter: str) -> TargetError | None:
    """What a device without a Python that we can use prints instead."""
    fix = (
        f"install one there (Debian: `sudo apt install python3`), or name another: `{name}: {{python: ...}}`"
    )
    if _OLD_PYTHON in chatter:
        version = chatter.partition(_OLD_PYTHON)[2].split()[0]
        return TargetError(f"its Python is {version}, 3.8 or newer is needed", where=name, fix=fix)
    tail = chatter.strip().splitlines()[-3:]
    if any(sign in chatter for sign in ("not found", "No such file", "inaccessible")):
        return TargetError(f"it has no `{python}`: {' '.join(tail)}", where=name, fix=fix)
    if "Traceback" in chatter or "Error" in chatter:
        return TargetError(f"its Python cannot keep a session: {' '.join(tail)}", where=name)
    return None
