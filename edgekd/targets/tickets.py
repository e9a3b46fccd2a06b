"""Queues whoever wants a machine for itself: a numbered, locked file each. Standard library, Python 3.8.

Imported here for this machine (`edgekd.targets.lease`), and sent to devices with `edgekd.targets.keeper`.
Beside the standard library it needs `traces`, which is sent as well.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any, Iterator  # noqa: UP035 - typing's own, for Python 3.8

from edgekd.targets.traces import is_free

STALE_S = 90.0
"""A ticket untouched for longer lost its host, and its keeper hangs."""
_ABANDONED_S = 60.0
_NUMBER = re.compile(r"(\d{12})\.ticket")
_HIDDEN = ".new-"
_NOTE_BYTES = 4096
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)
_DOOR_S = 10.0


def lease_folder() -> Path:
    """One place for all users of this machine and all ways to it: `EDGEKD_LEASE_DIR`, or a folder in /tmp."""
    chosen = os.environ.get("EDGEKD_LEASE_DIR")
    usual = "/tmp" if os.access("/tmp", os.W_OK | os.X_OK) else tempfile.gettempdir()
    return Path(chosen) if chosen else Path(usual, "edgekd-lease")


class Ticket:
    """A place in the queue for a machine: the oldest live ticket owns it.

    A ticket is a numbered file that its owner holds locked. A dead owner's lock is gone; one that hangs no
    longer touches its ticket, which is stale after `STALE_S` (unless its note says `"beats": false`).
    Raises `OSError` when the folder cannot be used.
    """

    def __init__(self, folder: Path, note: dict[str, Any]) -> None:
        self.folder = folder
        _make_shared(folder)
        _sweep(folder)
        hidden = folder / f"{_HIDDEN}{os.getpid()}-{os.urandom(6).hex()}"
        self._file = os.open(hidden, os.O_CREAT | os.O_EXCL | os.O_RDWR | _NO_LINKS, 0o644)
        try:
            os.fchmod(self._file, 0o644)  # whatever the umask: others see by its lock whether we live
            fcntl.flock(self._file, fcntl.LOCK_EX)  # before anyone can find it under a ticket's name
            os.write(self._file, json.dumps({**note, "since": time.time(), "pid": os.getpid()}).encode())
            with _door(folder):
                self.number = 1 + max([number for number, _ in _tickets(folder)] or [0])
                self.path = folder / f"{self.number:012d}.ticket"
                hidden.rename(self.path)
        except BaseException:
            os.close(self._file)
            with contextlib.suppress(OSError):
                hidden.unlink()
            raise
        self._touched = time.monotonic()

    def ahead(self) -> list[dict[str, Any]]:
        """Notes of the live tickets before this one, the owner's first; `ours`: of this user."""
        earlier = [path for number, path in sorted(_tickets(self.folder)) if number < self.number]
        notes = [_live_note(path) for path in earlier]
        return [note for note in notes if note is not None]

    def touch(self) -> None:
        """A sign of life."""
        self._touched = time.monotonic()
        os.utime(self._file)

    def expired(self) -> bool:
        """Whether others may have taken it for dead: it was not touched for too long, or it is gone."""
        return time.monotonic() - self._touched > STALE_S or not _same(self._file, self.path)

    def leave(self) -> None:
        """Let the next one in."""
        _remove(self._file, self.path)
        with contextlib.suppress(OSError):
            os.close(self._file)


def holders(folder: Path) -> list[dict[str, Any]]:
    """Notes of all live tickets, as `Ticket.ahead` gives them."""
    notes = [_live_note(path) for _, path in sorted(_tickets(folder))]
    return [note for note in notes if note is not None]


def _make_shared(folder: Path) -> None:
    """A folder that every user may add to and none can take a ticket from."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
        folder.chmod(0o1777)
    except FileExistsError:
        if folder.is_symlink() or not folder.is_dir():
            raise NotADirectoryError(20, "is not a folder", str(folder)) from None


def _sweep(folder: Path) -> None:
    """Remove what was killed before it became a ticket."""
    for path in folder.glob(f"{_HIDDEN}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED_S:
                path.unlink()


@contextlib.contextmanager
def _door(folder: Path) -> Iterator[None]:
    """Tickets come and go one at a time. Held for microseconds, unless somebody is stopped in between."""
    door, deadline = os.open(folder, os.O_RDONLY), time.monotonic() + _DOOR_S
    try:
        while True:
            try:
                fcntl.flock(door, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        yield
    finally:
        os.close(door)


def _tickets(folder: Path) -> list[tuple[int, Path]]:
    found = [(_NUMBER.fullmatch(path.name), path) for path in folder.glob("*.ticket")]
    return [(int(match[1]), path) for match, path in found if match]


def _live_note(path: Path) -> dict[str, Any] | None:
    """What a ticket says; None, and the ticket is removed where that is allowed, if its owner is dead."""
    try:
        file = os.open(path, os.O_RDONLY | _NO_LINKS)
    except OSError:
        return None
    try:
        state = os.fstat(file)
        note = _note(os.read(file, _NOTE_BYTES))
        fresh = time.time() - state.st_mtime <= STALE_S or note.get("beats") is False
        if fresh and not is_free(file):
            return {**note, "ours": state.st_uid == os.getuid()}
        _remove(file, path)
        return None
    finally:
        os.close(file)


def _remove(file: int, path: Path) -> None:
    """Remove a ticket, where that is allowed, and not the next one that has its number."""
    with contextlib.suppress(OSError), _door(path.parent):
        if _same(file, path):
            path.unlink()


def _same(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except OSError:
        return False


def _note(text: bytes) -> dict[str, Any]:
    """Anyone on the machine may have written it."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    note = found if isinstance(found, dict) else {}
    who = "".join(c for c in str(note.get("who", "somebody")) if c.isprintable())[:80]
    since = note.get("since")
    age = max(0.0, time.time() - since) if isinstance(since, float) else None
    return {**note, "who": who, "for_s": age}
