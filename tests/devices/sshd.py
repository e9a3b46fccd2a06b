"""A real sshd on loopback, of nobody's but this test's: its keys, its port, its folders."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgekd.core.errors import TargetError
from edgekd.targets.host_keys import HostKey, parse_key
from edgekd.targets.ssh import SshTarget

SSHD = shutil.which("sshd") or next((p for p in ("/usr/sbin/sshd",) if Path(p).exists()), None)
NEEDED = "an sshd (Debian: `apt-get install --no-install-recommends openssh-server`)"
NAME = "board"
LOOPBACK = "127.0.0.1"
START_S = 60.0
HOST = """
import sys
from edgekd.targets.ssh import SshTarget
target = SshTarget.model_validate_json(sys.argv[1])
with target.open() as session:
    print(session.folder, flush=True)
    session.run(["sleep", "1000"], timeout_s=1000)
"""
"""A program that has a session on the target it is given, and tells its folder."""
_CONFIG = """
Port {port}
ListenAddress {host}
HostKey {folder}/host
PidFile {folder}/pid
AuthorizedKeysFile {folder}/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
LogLevel VERBOSE
SetEnv {variables}
{more}
"""


@dataclass
class Sshd:
    """A server that runs; what its sessions leave is below `home`."""

    folder: Path
    host: str
    port: int
    process: subprocess.Popen[bytes]
    prefix: tuple[str, ...] = ()

    @property
    def home(self) -> Path:
        """The cache folder of its sessions."""
        return self.folder / "cache"

    @property
    def sessions(self) -> list[Path]:
        return sorted((self.home / "edgekd" / "sessions").glob("s-*"))

    @property
    def tickets(self) -> list[Path]:
        return sorted((self.folder / "lease").glob("*"))

    @property
    def host_key(self) -> HostKey:
        return parse_key((self.folder / "host.pub").read_text())

    @property
    def key(self) -> Path:
        return self.folder / "user"

    @property
    def address(self) -> str:
        return f"ssh://{user()}@{self.host}:{self.port}"

    def environment(self, name: str = NAME) -> dict[str, str]:
        """Where the device `name` is, and by which key."""
        variable = f"EDGEKD_DEVICE_{name.upper()}"
        return {variable: self.address, f"{variable}_KEY": str(self.key)}

    def target(self, **fields: object) -> SshTarget:
        pin = {"host_key": self.host_key.line, "fingerprint": self.host_key.fingerprint}
        return SshTarget.model_validate({"name": NAME, "python": sys.executable, **pin, **fields})

    def keepers(self) -> list[int]:
        """Of the sessions that are open: their processes here."""
        return [pid for pid in children(self.process.pid) if b"sys.stdin.buffer.read(" in command_of(pid)]

    def answers(self) -> bool:
        """Whether a command goes there and back, for whoever has its address in the environment."""
        with contextlib.suppress(TargetError), contextlib.closing(self.target().transport()) as transport:
            return transport.run("true", timeout_s=START_S).code == 0
        return False

    def said(self) -> str:
        return (self.folder / "log").read_text(errors="replace")


def user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def make_key(path: Path, kind: str = "ed25519") -> Path:
    words = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", "test", "-f", str(path)]
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL)
    return path


def free_port(host: str = LOOPBACK) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_sshd(
    folder: Path,
    *,
    more: str = "",
    host: str = LOOPBACK,
    prefix: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
) -> Iterator[Sshd]:
    """Serve this user on `host`. Sessions find their cache and lease below `folder`.

    `prefix` stands before the server's command, which then may run in namespaces of its own; `host` may be
    an address that there is only in one of networks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("host", "user"):
        if not (folder / name).exists():
            make_key(folder / name)
    shutil.copyfile(folder / "user.pub", folder / "authorized_keys")
    (folder / "home").mkdir(exist_ok=True)
    given = {
        "HOME": f"{folder}/home",  # not ours: what its login shell does is its own
        "XDG_CACHE_HOME": f"{folder}/cache",
        "EDGEKD_LEASE_DIR": f"{folder}/lease",
        **(variables or {}),
    }
    port = free_port(host) if host == LOOPBACK else 22022
    settings = {"folder": folder, "host": host, "port": port, "more": more}
    words = " ".join(f'"{key}={value}"' for key, value in given.items())
    (folder / "config").write_text(_CONFIG.format(**settings, variables=words))
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    server = Sshd(folder, host, port, _started(folder, prefix), tuple(prefix))
    try:
        _wait_for(server)
        yield server
    finally:
        stop(server)


def _started(folder: Path, prefix: Sequence[str]) -> subprocess.Popen[bytes]:
    assert SSHD is not None
    words = [*prefix, SSHD, "-D", "-e", "-f", str(folder / "config")]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(words, stderr=log, stdin=subprocess.DEVNULL)


def restart(server: Sshd) -> None:
    """Serve as before, by the keys that are there now; whoever is logged in is thrown out."""
    stop(server)
    server.process = _started(server.folder, server.prefix)
    _wait_for(server)


def stop(server: Sshd) -> None:
    """End the server and whoever is logged in: its children."""
    for pid in [*children(server.process.pid), server.process.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    server.process.wait()


def _wait_for(server: Sshd) -> None:
    deadline = time.monotonic() + START_S
    while "Server listening" not in server.said():
        if server.process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"sshd does not run:\n{server.said()}")
        time.sleep(0.02)


def command_of(pid: int) -> bytes:
    """Its words, with a space after each; nothing if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    except OSError:
        return b""


def children(pid: int) -> list[int]:
    """All descendants of a process, the nearest first."""
    found: list[int] = []
    parents = {pid}
    while parents:
        born = {child for child, parent in _parents().items() if parent in parents} - set(found)
        found += sorted(born)
        parents = born
    return found


def _parents() -> dict[int, int]:
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    return parents
