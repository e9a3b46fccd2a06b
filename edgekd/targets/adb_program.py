"""Calls the system's `adb`: every call within a limit, every failure in words that name no address."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from edgekd.core.errors import TargetError
from edgekd.targets.processes import kill_group
from edgekd.targets.target import Finished

PULSE_S = 15.0
"""How often a device is asked beside a long call whether it still answers: it starts a shell for that."""
ANSWER_S = 10.0
_SERVER_S = 30.0
_TAIL_CHARACTERS = 600
_PULLED = "see whether cable and network are there: adb itself waits for ever when they are pulled"
_LISTENING = '{ "$@" 2>&1 >&3 | grep -q -- "$0"; } 3>&1'
"""A shell line: `$0` is the word, the rest the command, whose standard output stays the line's."""
_INSTALL = (
    "install it: `sudo apt install adb` (Debian, Ubuntu), `brew install android-platform-tools` (macOS), "
    "or https://developer.android.com/tools/releases/platform-tools"
)

# What adb says (any version: looked for in lower case, in this order), what it means, and what helps.
_MEANINGS: tuple[tuple[str, str, str], ...] = (
    (
        "unauthorized",
        "the device has not allowed this computer to debug it (unauthorized)",
        "unlock its screen, answer `Allow USB debugging?` with `Always allow`, and try again",
    ),
    (
        "authorizing",
        "the device is still asking whether this computer may debug it",
        "unlock its screen, answer `Allow USB debugging?` with `Always allow`, and try again",
    ),
    (
        "permissions",
        "this user may not open the device on USB (no permissions)",
        "install your distribution's udev rules (Debian: `android-sdk-platform-tools-common`), join the "
        "group `plugdev`, and plug the device in again",
    ),
    (
        "more than one",
        "several devices are attached, and its address does not say which",
        "`adb devices -l` lists them; give the address as `adb://SERIAL`",
    ),
    (
        "no devices",
        "no device is attached",
        "plug it in and turn USB debugging on (Settings > Developer options); `adb devices -l` must list it",
    ),
    (
        "not found",
        "no device with this serial is attached",
        "plug it in and turn USB debugging on; `adb devices -l` lists what is there",
    ),
    (
        "offline",
        "the device is attached but does not answer (offline)",
        "plug it in again, or turn USB debugging off and on",
    ),
    (
        "cannot connect to daemon",
        "adb's server does not start",
        "something else may use its port: set `server_port` to a free one",
    ),
)


class AdbProgram:
    """The `adb` on PATH, for one device. `server_port`: of edgekd's own server, which `close` ends."""

    def __init__(self, name: str, serial: str | None, *, server_port: int | None = None) -> None:
        self.name, self.serial, self._port = name, serial, server_port
        self._lock: IO[bytes] | None = None

    def call(
        self,
        arguments: Sequence[str],
        *,
        stdin: bytes = b"",
        timeout_s: float,
        device: bool = True,
        pulse: bool = False,
    ) -> Finished:
        """Run `adb [-s SERIAL] ARGUMENTS`; raises `TargetError` without `adb` and after `timeout_s`.

        With `pulse`, it is given up as soon as the device no longer answers beside it.
        """
        process = self.popen(arguments, stderr=subprocess.PIPE, device=device)
        with process:
            try:
                return self._wait(process, stdin, timeout_s, pulse)
            except BaseException:  # Ctrl-C among them: nothing may be left running
                kill_group(process)
                raise

    def _wait(
        self, process: subprocess.Popen[bytes], stdin: bytes, timeout_s: float, pulse: bool
    ) -> Finished:
        deadline = time.monotonic() + timeout_s
        text: bytes | None = stdin
        while True:
            left = deadline - time.monotonic()
            try:
                stdout, stderr = process.communicate(text, timeout=min(left, PULSE_S) if pulse else left)
                return Finished(process.returncode, stdout, stderr)
            except subprocess.TimeoutExpired as error:
                text = None  # it has been taken over
                if time.monotonic() >= deadline:
                    what = f"no answer within {timeout_s:.0f} s, given up"
                    raise TargetError(what, where=self.name, fix=_PULLED) from error
            if pulse and not (self.answers() or self.answers()):
                raise self.lost()

    def answers(self) -> bool:
        """Whether a command goes there and back within a few seconds."""
        try:
            return self.call(["shell", "-T", "true"], timeout_s=ANSWER_S).code == 0
        except TargetError:
            return False

    def popen(
        self, arguments: Sequence[str], *, stderr: int, device: bool = True, unless_told: str | None = None
    ) -> subprocess.Popen[bytes]:
        """The same, started only, in a process group of its own.

        `unless_told`: its exit code is 1 instead of 0 unless this word comes through its standard error.
        """
        program = shutil.which("adb")
        if program is None:
            raise TargetError(
                "this needs the program `adb`, which is not on PATH", where=self.name, fix=_INSTALL
            )
        selection = ["-s", self.serial] if device and self.serial else []
        listening = [] if unless_told is None else ["sh", "-c", _LISTENING, unless_told]
        try:
            return subprocess.Popen(
                [*listening, program, *selection, *arguments],
                env=self._environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
            )
        except OSError as error:
            raise TargetError(f"cannot start adb: {error.strerror or error}", where=self.name) from error

    def start_server(self) -> None:
        """Start adb's server explicitly, so that no other call spends its limit on that."""
        if self._port is not None and self._lock is None:
            self._lock = _locked(_lock_file(self._port))
        finished = self.call(["start-server"], timeout_s=_SERVER_S, device=False)
        if finished.code != 0:
            raise self.error(finished)

    def close(self) -> None:
        """End our own server, if no other process of edgekd uses it."""
        if self._lock is None:
            return
        with self._lock, suppress(OSError, TargetError):
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.call(["kill-server"], timeout_s=_SERVER_S, device=False)
            Path(self._lock.name).unlink()
        self._lock = None

    def error(self, finished: Finished, doing: str = "") -> TargetError:
        """What a failed call means."""
        text = self.redacted((finished.stderr or finished.stdout).decode(errors="replace"))
        head = f"{doing}: " if doing else ""
        for sign, meaning, fix in _MEANINGS:
            if sign in text.lower():
                return TargetError(f"{head}{meaning}", where=self.name, fix=fix)
        said = " ".join(text.split())[-_TAIL_CHARACTERS:] or f"nothing, exit code {finished.code}"
        return TargetError(f"{head}adb says: {said}", where=self.name)

    def lost(self) -> TargetError:
        """The device was there and no longer answers."""
        what = "it no longer answers: the link was lost before the command ended"
        return TargetError(what, where=self.name, fix=_PULLED)

    def redacted(self, text: str) -> str:
        """`text` without the device's address."""
        host = (self.serial or "").rpartition(":")[0]
        for secret in filter(None, (self.serial, host, host.strip("[]"))):
            text = re.sub(rf"(?<![\w.]){re.escape(secret)}(?!\w)", "<address>", text)
        return text

    def _environment(self) -> dict[str, str]:
        port = {} if self._port is None else {"ANDROID_ADB_SERVER_PORT": str(self._port)}
        return {**os.environ, **port}


def _lock_file(port: int) -> Path:
    return Path(tempfile.gettempdir(), f"edgekd-adb-{os.getuid()}-{port}.lock")


def _locked(path: Path) -> IO[bytes]:
    """The file, locked together with others; not one that its last user removed meanwhile."""
    while True:
        lock = path.open("ab")
        fcntl.flock(lock, fcntl.LOCK_SH)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                return lock
        lock.close()
