"""What one session leaves on a device, and how it is removed: folder, processes, cache. Python 3.8.

Sent to devices with `edgekd.targets.keeper`; imports only the standard library.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

VARIABLE = "EDGEKD_SESSION"
"""Set for every command of a session, so that what left the folder is found as well."""
_YOUNG_S = 60.0
_KILLING_S = 5.0
_HUNG_S = 90.0
"""A keeper that lives and has not touched its lock for so long hangs: it was stopped."""
_SECOND_LOOK_S = 8.0
"""Longer than a keeper is silent. Clocks jump, as when a board without a battery hears from the network."""
_LOCK = ".keeper"


# --- folders and processes ----------------------------------------------------------------------------------


def cache_home() -> Path:
    """Where this user's sessions and cache are kept; beside the other temporary files without a home."""
    for root in (os.environ.get("XDG_CACHE_HOME", ""), str(Path("~/.cache").expanduser())):
        if root.startswith("/"):
            with contextlib.suppress(OSError):
                Path(root, "edgekd").mkdir(mode=0o700, parents=True, exist_ok=True)
                return Path(root, "edgekd")
    path = Path(tempfile.gettempdir(), f"edgekd-{os.getuid()}")
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_uid != os.getuid():
        raise PermissionError(13, "belongs to somebody else", str(path))
    return path


def make_session(root: Path) -> tuple[Path, int]:
    """A private folder, and the lock that says its keeper lives, and which process it is."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="s-", dir=root)).resolve()
    lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.write(lock, b"%d" % os.getpid())
    return folder, lock


def remove_orphans(root: Path | str) -> int:
    """Remove the folders of keepers that were killed or hang, and what runs there; returns how many."""
    found = [path for path in Path(root).glob("s-*") if _is_orphan(path)]
    for path in found:
        remove_session(path.resolve())
    return len(found)


def _is_orphan(folder: Path) -> bool:
    try:
        lock = os.open(folder / _LOCK, os.O_RDONLY)
    except OSError:
        with contextlib.suppress(OSError):
            return time.time() - folder.stat().st_mtime > _YOUNG_S  # its keeper may be about to lock it
        return False
    try:
        return is_free(lock) or _hung_and_killed(lock)
    finally:
        os.close(lock)


def _hung_and_killed(lock: int) -> bool:
    """End a keeper that holds the lock and does nothing any more; its host has given it up long since."""
    seen = os.fstat(lock).st_mtime
    if time.time() - seen <= _HUNG_S:
        return False
    time.sleep(_SECOND_LOOK_S)
    if os.fstat(lock).st_mtime != seen:
        return False
    with contextlib.suppress(OSError, ValueError):
        os.kill(int(os.pread(lock, 20, 0)), signal.SIGKILL)
    deadline = time.monotonic() + _KILLING_S
    while not is_free(lock) and time.monotonic() < deadline:
        time.sleep(0.02)
    return is_free(lock)


def is_free(file: int) -> bool:
    """Whether no process holds the file locked."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def remove_session(folder: Path) -> None:
    """Kill what runs there, and remove it."""
    kill_all(folder)
    shutil.rmtree(folder, ignore_errors=True)


def kill_all(folder: Path) -> int:
    """Kill what runs in the folder or carries the session's variable, until there is nothing left."""
    killed, deadline = set(), time.monotonic() + _KILLING_S
    while True:
        found = processes_of(folder)
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        killed.update(found)
        if not found or time.monotonic() > deadline:
            return len(killed)
        time.sleep(0.02)


def processes_of(folder: Path) -> list[int]:
    """Live processes of the session, other than this one."""
    mark = f"{VARIABLE}={folder.name}".encode()
    numbers = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [pid for pid in numbers if pid != os.getpid() and _belongs(pid, str(folder), mark)]


def _belongs(pid: int, folder: str, mark: bytes) -> bool:
    process = Path(f"/proc/{pid}")
    try:
        if (process / "stat").read_bytes().rpartition(b")")[2].split()[0] == b"Z":
            return False
        where = os.readlink(str(process / "cwd"))  # noqa: PTH115 - Path.readlink came with Python 3.9
        if where == folder or where.startswith(folder + "/"):
            return True
        return mark in (process / "environ").read_bytes().split(b"\0")
    except OSError:
        return False  # gone meanwhile, or somebody else's


# --- the cache ----------------------------------------------------------------------------------------------


class Cache:
    """Files named by their SHA-256, at most `cap` bytes together: the longest unused go first."""

    def __init__(self, folder: Path, cap: int) -> None:
        self.folder, self.cap = folder, cap

    def link(self, digest: str, path: Path) -> bool:
        """Put the object at `path`, if it is there and whole."""
        stored = self.folder / digest
        if not stored.is_file():
            return False
        if sha256(stored) != digest:  # a torn write, a worn-out card
            stored.unlink()
            return False
        os.utime(stored)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        _link(stored, path)
        return True

    def keep(self, digest: str, path: Path) -> None:
        """Remember the file at `path`, then make room."""
        if path.stat().st_size > self.cap:
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            path.chmod(0o444)
            _link(path, self.folder / digest)
        self.evict()

    def evict(self) -> None:
        """Remove the longest unused objects until the rest is within the cap."""
        states = sorted(
            ((path.stat(), path) for path in self.folder.glob("*")), key=lambda one: one[0].st_mtime
        )
        excess = sum(state.st_size for state, _ in states) - self.cap
        for state, path in states:
            if excess <= 0:
                return
            path.unlink()
            excess -= state.st_size


def _link(source: Path, path: Path) -> None:
    try:
        os.link(source, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        part = path.with_name(path.name + ".part")
        shutil.copyfile(str(source), str(part))
        part.rename(path)


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for piece in iter(lambda: stream.read(1 << 18), b""):
            digest.update(piece)
    return digest.hexdigest()
