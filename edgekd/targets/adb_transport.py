"""Runs commands and copies files by the system's `adb`.

What is different from ssh, all seen with a real adbd (Debian's 34.0.5, adb 29.0.6):

* After a pulled cable adb waits for ever, and `get-state` goes on saying `device`. So every call has a limit,
  and a long one is given up when two commands beside it get no answer.
* When the connection ends in the midst of a command, adb itself ends with exit code 0. So a command counts as
  finished only when its last line of standard error is a token of ours with its exit code.
* When the client is killed, the device's shell gets SIGHUP: it hands it on to all that it started.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import subprocess
import threading
import time
from contextlib import suppress
from pathlib import Path

from edgekd.core.errors import TargetError
from edgekd.targets import adb_program
from edgekd.targets.adb_program import AdbProgram
from edgekd.targets.processes import kill_group
from edgekd.targets.target import Finished
from edgekd.targets.transport import Transport, full_disk

_CALL_S = 10.0
_CONNECT_S = 15.0
_SETTLE_S = 5.0
_POLL_S = 0.25
_PASSING = ("offline", "authorizing", "connecting", "not found", "no devices")
"""States that a device passes through just after the server starts or the cable is plugged in."""
_SLOWEST = 100_000.0
"""Bytes per second that a transfer has as a whole: adb does not say how far it is."""
_ADBS_OWN = (b"error:", b"adb:")
_KILLED, _LOST = 128, 255
NETWORK = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^:\[\]]+):(\d{1,5})")
_HERE = ("cannot create", "cannot write", "cannot open '")
"""How `adb pull` complains about this machine's disk."""


class AdbTransport(Transport):
    """Commands and files by `adb shell`, `push` and `pull`; connects on first use and after a failure."""

    def __init__(self, name: str, serial: str | None, *, server_port: int | None = None) -> None:
        """`serial` as `adb devices` lists it; `HOST:PORT` is connected to; None: the only device attached."""
        self.name = name
        self._adb = AdbProgram(name, serial, server_port=server_port)
        self._ready = False
        self._closed, self._lost = threading.Event(), False
        self._guards: list[threading.Thread] = []

    def run(self, command: str, *, stdin: bytes = b"", timeout_s: float) -> Finished:
        self._make_ready()
        return self._shell(command, stdin, timeout_s)

    def start(self, command: str) -> subprocess.Popen[bytes]:
        """Start a command that cares for its own end: it sees the end of its input, not a SIGHUP.

        Its exit code is 0 only if it came to a good end: adb's own is 0 as well when the link is lost.
        """
        self._make_ready()
        token = secrets.token_hex(8)
        told = f"trap '' HUP\n(\n{command}\n) && printf '%s\\n' {token} >&2"
        process = self._adb.popen(["shell", "-T", told], stderr=subprocess.DEVNULL, unless_told=token)
        guard = threading.Thread(target=self._guard, args=(process,), name=f"adb-{self.name}", daemon=True)
        guard.start()
        self._guards.append(guard)
        return process

    def _guard(self, process: subprocess.Popen[bytes]) -> None:
        """End a long-lived command when the device no longer answers beside it: adb would wait for ever."""
        while process.poll() is None and not self._closed.wait(adb_program.PULSE_S):
            if process.poll() is None and not (self._adb.answers() or self._adb.answers()):
                self._lost, self._ready = True, False
                kill_group(process)

    def put(self, local: Path, remote: str, *, timeout_s: float) -> None:
        self._make_ready()
        part = f"{remote}.part"
        try:
            size = local.stat().st_size
        except OSError as error:
            raise TargetError(f"cannot push {local}: {error.strerror}", where=self.name) from error
        doing = f"push {local.name} ({size / 1e6:.1f} MB)"
        try:
            self._transfer(["push", str(local.resolve()), part], doing, timeout_s + size / _SLOWEST)
            self._rename(part, remote, size, doing)
        except TargetError:
            with suppress(TargetError):
                if self._ready:
                    self._shell(f"rm -f {shlex.quote(part)}", b"", _CALL_S)
            raise

    def get(self, remote: str, local: Path, *, timeout_s: float) -> None:
        self._make_ready()
        part = local.with_name(f".{local.name}.part")
        try:
            name, size = Path(remote).name, self._size(remote)
            limit = timeout_s + size / _SLOWEST
            self._transfer(["pull", remote, str(part.absolute())], f"pull {name}", limit)
            os.replace(part, local)
        finally:
            part.unlink(missing_ok=True)

    def close(self) -> None:
        self._closed.set()
        for guard in self._guards:
            guard.join()
        self._adb.close()

    def trouble(self) -> TargetError:
        if self._lost:
            return self._adb.lost()
        finished = self._adb.call(["get-state"], timeout_s=_CALL_S)
        if finished.stdout.split() != [b"device"]:
            return self._adb.error(finished)
        return TargetError("the link to it was lost", where=self.name)

    # --- one command ----------------------------------------------------------------------------------------

    def _shell(self, command: str, stdin: bytes, timeout_s: float) -> Finished:
        token = secrets.token_hex(8)
        finished = self._call(["shell", "-T", _accounted(command, token)], timeout_s, stdin)
        end = re.search(rb"\n?" + token.encode() + rb" (\d{1,3})\n", finished.stderr)
        if end is None and _KILLED < finished.code < _LOST:
            return finished  # the shell itself was killed: adb's own failures are 1 and 255
        if end is None:
            self._ready = False
            adbs_own = b"\n".join(line for line in finished.stderr.splitlines() if line.startswith(_ADBS_OWN))
            lost = Finished(finished.code, b"", adbs_own)
            raise self._adb.error(lost, "the connection was lost before the command ended")
        return Finished(int(end[1]), finished.stdout, finished.stderr[: end.start()])

    def _transfer(self, arguments: list[str], doing: str, timeout_s: float) -> None:
        finished = self._call(arguments, timeout_s)
        if finished.code == 0:
            return
        said = (finished.stderr + finished.stdout).decode(errors="replace")
        if arguments[0] == "pull" and any(sign in said for sign in _HERE):
            raise OSError(self._adb.redacted(said.strip()))
        if "No space left" in said or "Disk quota" in said:
            raise full_disk(self.name, doing, self._free_bytes(arguments[-1]))
        raise self._adb.error(finished, f"cannot {doing}")

    def _free_bytes(self, path: str) -> int | None:
        """Where `path` is; None where that cannot be learned."""
        said = self._shell(f"df -Pk {shlex.quote(str(Path(path).parent))}", b"", _CALL_S).stdout
        free = re.search(rb"\s(\d+)\s+\d+%\s", said)
        return None if free is None else int(free[1]) * 1024

    def _size(self, remote: str) -> int:
        """In bytes; 0 where there is no such file: `pull` says so."""
        said = self._shell(f"wc -c <{shlex.quote(remote)}", b"", _CALL_S).stdout.strip()
        return int(said) if said.isdigit() else 0

    def _rename(self, part: str, remote: str, size: int, doing: str) -> None:
        source = shlex.quote(part)
        whole = f"[ $(wc -c <{source}) -eq {size} ] && mv -f {source} {shlex.quote(remote)}"
        finished = self._shell(whole, b"", _CALL_S)
        if finished.code != 0:
            tail = self._adb.redacted(finished.stderr.decode(errors="replace").strip())
            raise TargetError(f"cannot {doing}: it did not arrive whole. {tail}".strip(), where=self.name)

    def _call(self, arguments: list[str], timeout_s: float, stdin: bytes = b"") -> Finished:
        try:
            return self._adb.call(arguments, stdin=stdin, timeout_s=timeout_s, pulse=True)
        except TargetError:
            self._ready = False
            raise

    # --- the connection -------------------------------------------------------------------------------------

    def _make_ready(self) -> None:
        """Server, connection, state, and one command that really goes there and back."""
        if self._ready:
            return
        self._adb.start_server()
        network = bool(self._adb.serial and NETWORK.fullmatch(self._adb.serial))
        try:
            self._reach(network)
        except TargetError:
            if not network:
                raise
            self._manage("disconnect")  # what the server holds may be dead: only a new connection tells
            self._reach(network)
        self._ready = True

    def _reach(self, network: bool) -> None:
        if network:
            self._connect()
        self._settle()
        self._check_features()
        if self._shell("true", b"", _CALL_S).code != 0:
            raise TargetError("its shell does not run `true`", where=self.name)

    def _connect(self) -> None:
        """`adb connect` ends with 0 whatever became of it: what it says counts."""
        finished = self._manage("connect")
        if not re.match(rb"(already )?connected to ", finished.stdout):
            raise self._adb.error(finished, "cannot connect")

    def _manage(self, verb: str) -> Finished:
        return self._adb.call([verb, self._adb.serial or ""], timeout_s=_CONNECT_S, device=False)

    def _settle(self) -> None:
        """Wait a moment for the state `device`; `adb://` then gets a serial, to stay the same one."""
        deadline = time.monotonic() + _SETTLE_S
        while True:
            finished = self._call(["get-state"], _CALL_S)
            said = (finished.stdout + finished.stderr).decode(errors="replace").lower()
            if finished.code == 0 and finished.stdout.split() == [b"device"]:
                break
            if not any(sign in said for sign in _PASSING) or time.monotonic() > deadline:
                raise self._adb.error(finished)
            time.sleep(_POLL_S)
        if self._adb.serial is None:
            self._adb.serial = self._call(["get-serialno"], _CALL_S).stdout.decode(errors="replace").strip()

    def _check_features(self) -> None:
        finished = self._call(["features"], _CALL_S)
        if b"shell_v2" not in finished.stdout.split():
            raise TargetError(
                "its adb gives no exit codes (no `shell_v2`)",
                where=self.name,
                fix="Android 7 or newer, and adb 1.0.36 or newer, are needed",
            )


def _accounted(command: str, token: str) -> str:
    """`command` in a subshell; SIGHUP reaches all of it; the last line of standard error has its exit code.

    In the background, because a shell handles a signal only after a command in the foreground. POSIX gives
    a background command no input unless it is handed on by another descriptor.
    """
    return (
        "trap 'trap \"\" HUP; kill -HUP 0' HUP\n"
        f"{{ (\n{command}\n) <&3 3<&- & }} 3<&0\n"
        f'wait $!\nedgekd_code=$?\nprintf \'\\n%s %s\\n\' {token} "$edgekd_code" >&2\nexit "$edgekd_code"'
    )
