"""Temporary folders of this machine that are removed even when their process is killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOCK = ".lock"
_YOUNG_S = 60.0


@contextmanager
def private_folder(prefix: str, *, short: bool = False) -> Iterator[Path]:
    """A folder that only this user may read, gone on leaving; those of killed processes go on entering.

    `short` prefers /tmp: the path of a socket may have about a hundred characters. Raises `OSError`.
    """
    root = Path("/tmp") if short and os.access("/tmp", os.W_OK | os.X_OK) else Path(tempfile.gettempdir())
    _remove_orphans(root, prefix)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=root))
    try:
        with (folder / _LOCK).open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _remove_orphans(root: Path, prefix: str) -> None:
    """Remove the folders of processes that were killed: nobody holds their lock."""
    for folder in root.glob(f"{prefix}*"):
        try:
            if time.time() - folder.stat().st_mtime < _YOUNG_S:
                continue  # its owner may not have locked it yet
            with (folder / _LOCK).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # in use, gone already, or somebody else's
