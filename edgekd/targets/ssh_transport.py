"""Runs commands and copies files by the system's `ssh`, through one connection."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shlex
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from edgekd.core.errors import TargetError
from edgekd.targets.addresses import SshAddress
from edgekd.targets.folders import private_folder
from edgekd.targets.host_keys import HostKey
from edgekd.targets.processes import finish, kill_group, pieces, watch
from edgekd.targets.ssh_errors import explain, hide, not_written
from edgekd.targets.target import Finished
from edgekd.targets.transport import Transport

OPTIONS = {
    "BatchMode": "yes",
    "StrictHostKeyChecking": "yes",
    "GlobalKnownHostsFile": "/dev/null",
    "UpdateHostKeys": "no",
    "CheckHostIP": "no",
    "VerifyHostKeyDNS": "no",
    "ConnectTimeout": "10",
    "ServerAliveInterval": "2",
    "ServerAliveCountMax": "3",
    # Whatever the user's configuration adds to a login is not wanted here.
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "EscapeChar": "none",
    "LogLevel": "INFO",
    "VisualHostKey": "no",
    "ControlMaster": "auto",
    "ControlPersist": "no",
}


class SshTransport(Transport):
    """Commands and files through one connection: that of the first command, as long as it runs.

    So what is started (a session's keeper) carries everything else. The connection ends with the command that
    opened it, and that one ends when our end of its pipe closes, even if this process is killed.
    """

    def __init__(self, name: str, address: SshAddress, pin: HostKey, key: Path | None = None) -> None:
        self.name = name
        self._address, self._pin, self._key = address, pin, key
        self._open = contextlib.ExitStack()
        self._folder: Path | None = None
        self._started: subprocess.Popen[bytes] | None = None

    # --- the transport --------------------------------------------------------------------------------------

    def run(self, command: str, *, stdin: bytes = b"", timeout_s: float) -> Finished:
        token = secrets.token_hex(8)
        process = self._ssh(_accounted(command, token), subprocess.PIPE)
        finished = finish(process, stdin, timeout_s, self.name, self._hide)
        code, stderr = self._ending(finished.stderr, token)
        return Finished(code, b"".join(_after(token, [finished.stdout])), stderr)

    def start(self, command: str) -> subprocess.Popen[bytes]:
        """Start a long-lived command; ssh's own words go to a file, where `trouble` finds them."""
        with self._said().open("wb") as said:
            self._started = self._ssh(command, subprocess.PIPE, said)
        return self._started

    def put(self, local: Path, remote: str, *, timeout_s: float) -> None:
        """`timeout_s` is how long there may be no progress."""
        token = secrets.token_hex(8)
        try:
            source = local.open("rb")
        except OSError as error:
            raise TargetError(f"cannot push {local}: {error.strerror}", where=self.name) from error
        with source:
            size = os.fstat(source.fileno()).st_size
            process = self._ssh(_accounted(_receiving(remote, size), token), source)
            try:  # the processes share our file's position, so it tells how far they are
                finished = watch(process, lambda: os.lseek(source.fileno(), 0, os.SEEK_CUR), timeout_s)
            except TimeoutError:
                raise self._stalled(f"push {local.name}", timeout_s) from None
        code, stderr = self._ending(finished.stderr, token)
        if code != 0:
            raise not_written(stderr.decode(errors="replace"), self.name, local.name, size)

    def get(self, remote: str, local: Path, *, timeout_s: float) -> None:
        """`timeout_s` is how long there may be no progress."""
        token = secrets.token_hex(8)
        with local.open("wb") as copy:
            process = self._ssh(_accounted(f"cat < {shlex.quote(remote)}", token), subprocess.DEVNULL)
            try:
                stderr = _copy(process, copy, token, timeout_s)
            except TimeoutError:
                raise self._stalled(f"pull {Path(remote).name}", timeout_s) from None
        code, stderr = self._ending(stderr, token)
        if code != 0:
            tail = stderr.decode(errors="replace").strip()
            raise TargetError(f"cannot pull {Path(remote).name}: {tail}", where=self.name)

    def close(self) -> None:
        """End the connection; what still runs through it is cut off."""
        if self._started is not None:
            kill_group(self._started)
            self._started.wait()
        self._open.close()
        self._folder = self._started = None

    def trouble(self) -> TargetError:
        return self._explain("")

    # --- the connection -------------------------------------------------------------------------------------

    def _ssh(
        self, command: str, stdin: int | IO[bytes], stderr: int | IO[bytes] = subprocess.PIPE
    ) -> subprocess.Popen[bytes]:
        """Start a command; it opens the connection, or goes through the one that stands."""
        arguments = ["ssh", *self._options(), "--", self._address.host, f"exec sh -c {shlex.quote(command)}"]
        try:
            return subprocess.Popen(
                arguments, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True
            )
        except OSError as error:
            raise TargetError(
                f"cannot start ssh: {error.strerror or error}",
                where=self.name,
                fix="install OpenSSH's client",
            ) from error

    def _private(self) -> Path:
        """Our folder, with the only key that is accepted."""
        if self._folder is None:
            self._folder = self._open.enter_context(private_folder("edgekd-ssh-", short=True))
            (self._folder / "known_hosts").write_text(f"{self._alias} {self._pin.line}\n")
        return self._folder

    def _said(self) -> Path:
        return self._private() / "said"

    def _options(self) -> list[str]:
        pinned = {
            "HostKeyAlias": self._alias,
            "UserKnownHostsFile": str(self._private() / "known_hosts"),
            "HostKeyAlgorithms": self._pin.algorithms,
            "ControlPath": str(self._private() / "c"),
        }
        return [f"-o{key}={value}" for key, value in {**OPTIONS, **pinned}.items()] + who(
            self._address, self._key
        )

    @property
    def _alias(self) -> str:
        return f"edgekd-{self.name}".lower()

    # --- endings --------------------------------------------------------------------------------------------

    def _ending(self, stderr: bytes, token: str) -> tuple[int, bytes]:
        """A command's own exit code and standard error. Raises `TargetError` if it did not end by itself."""
        end = re.search(rb"\n" + token.encode() + rb" (\d{1,3})\n", stderr)
        if end is None:
            raise self._explain(stderr.decode(errors="replace"))
        return int(end[1]), self._hide(stderr[: end.start()].decode(errors="replace")).encode()

    def _explain(self, said: str) -> TargetError:
        """Why a command did not end by itself: the connection's own words count, if it is down."""
        if self._started is not None and self._started.poll() is not None:
            said = self._said().read_bytes().decode(errors="replace")
        return explain(said, self.name, self._pin.fingerprint, secrets_of(self._address))

    def _hide(self, text: str) -> str:
        return hide(text, [self._address.host])

    def _stalled(self, doing: str, stall_s: float) -> TargetError:
        return TargetError(f"cannot {doing}: no progress for {stall_s:.0f} s", where=self.name)


def who(address: SshAddress, key: Path | None = None) -> list[str]:
    """The options of ssh that say whom to log in as, and where."""
    words = [f"-p{address.port}"] if address.port is not None else []
    words += [f"-l{address.user}"] if address.user is not None else []
    return words + ([f"-i{key}", "-oIdentitiesOnly=yes"] if key is not None else [])


def secrets_of(address: SshAddress) -> list[str]:
    """Names of the device, also those that the user's configuration turns them into."""
    try:
        asked = subprocess.run(
            ["ssh", "-G", *who(address), "--", address.host], capture_output=True, timeout=5, text=True
        )
    except (OSError, subprocess.SubprocessError):
        return [address.host]
    names = [line.split(maxsplit=1)[1] for line in asked.stdout.splitlines() if _NAMING.match(line)]
    hops = [re.sub(r":\d+$", "", hop).rpartition("@")[2] for name in names for hop in name.split(",")]
    return [address.host, *hops]


_NAMING = re.compile(r"(hostname|proxyjump) \S")


def _accounted(command: str, token: str) -> str:
    """`command` between our words: only what is between them is its, and only the last one says it ended."""
    return f"printf '{token}\\n'; ( {command} ); c=$?; printf '\\n{token} %d\\n' $c >&2"


def _receiving(remote: str, size: int) -> str:
    """Standard input to a file, whole or not at all; if not, `df` follows the reason."""
    part, whole, folder = (shlex.quote(path) for path in (f"{remote}.part", remote, str(Path(remote).parent)))
    arrived = f"cat > {part} && [ $(($(wc -c < {part}))) -eq {size} ] && mv -f {part} {whole}"
    return f"LC_ALL=C; export LC_ALL; {arrived} || {{ rm -f {part}; df -Pk {folder} >&2; exit 1; }}"


def _after(token: str, stream: Iterable[bytes]) -> Iterator[bytes]:
    """What follows the line of the token: a login shell may have chattered before it."""
    line, before = token.encode() + b"\n", b""
    found = False
    for piece in stream:
        if found:
            yield piece
            continue
        before += piece
        _, mark, rest = before.partition(line)
        if mark:
            found = True
            yield rest


def _copy(process: subprocess.Popen[bytes], copy: IO[bytes], token: str, stall_s: float) -> bytes:
    """Write what the process prints after the token; returns its standard error. Raises `TimeoutError`."""
    assert process.stdout is not None
    with process:
        try:
            for piece in _after(token, pieces(process.stdout, stall_s)):
                copy.write(piece)
            return process.communicate(timeout=stall_s)[1]
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
        finally:
            kill_group(process)
