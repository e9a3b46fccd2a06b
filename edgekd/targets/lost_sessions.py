"""Which sessions of this user on this machine were lost, so that the next one may take their place.

A device learns of a pulled cable or a killed host only after a while. Until then the lost session's keeper
stands in the device's queue, and would keep out the very command that is to go on where it was. So every
session has a note here as long as it lasts: a file that its process holds locked, and touches with every sign
of life.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from pathlib import Path

from edgekd.targets.tickets import STALE_S
from edgekd.targets.traces import is_free

_OLD_S = 2 * STALE_S
"""After so long without a sign of life no keeper holds a place any more."""
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)


class Note:
    """Of one session. Without a folder that is ours alone there are no notes, and others wait a minute."""

    def __init__(self, device: str, session: str) -> None:
        self._path = _folder() / f"{device}.{session}"
        self._file: int | None = None
        with contextlib.suppress(OSError):
            _make_private(self._path.parent)
            self._file = os.open(self._path, os.O_CREAT | os.O_RDWR | _NO_LINKS, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def touch(self) -> None:
        """A sign of life."""
        with contextlib.suppress(OSError):
            if self._file is not None:
                os.utime(self._file)

    def close(self, *, lost: bool) -> None:
        """The session is over; one that was `lost` may still have a keeper on the device."""
        file, self._file = self._file, None
        if file is None:
            return
        with contextlib.suppress(OSError):
            if not lost:
                self._path.unlink()
        os.close(file)


def lost_sessions(device: str) -> list[str]:
    """Sessions on `device` whose process or link is gone; notes too old to matter are removed."""
    return [path.suffix[1:] for path in _young_notes() if path.stem == device and _is_abandoned(path)]


def _young_notes() -> list[Path]:
    young = []
    with contextlib.suppress(OSError):
        _make_private(_folder())
        for path in sorted(_folder().iterdir()):
            if time.time() - path.stat().st_mtime > _OLD_S:
                path.unlink()
            else:
                young.append(path)
    return young


def _is_abandoned(path: Path) -> bool:
    try:
        file = os.open(path, os.O_RDONLY | _NO_LINKS)
    except OSError:
        return False
    try:
        return is_free(file)
    finally:
        os.close(file)


def _folder() -> Path:
    return Path(tempfile.gettempdir(), f"edgekd-sessions-{os.getuid()}")


def _make_private(folder: Path) -> None:
    """Raises `OSError` for a folder that somebody else could have put there."""
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    state = folder.lstat()
    if folder.is_symlink() or state.st_uid != os.getuid() or state.st_mode & 0o077:
        raise PermissionError(13, "is not private", str(folder))
