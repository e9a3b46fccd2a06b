"""Runs on the device: removes what edgekd keeps there between sessions.

Sent by `edgekd.targets.asking`; imports only the standard library and `edgekd.targets.traces`, Python 3.8.
The request is empty. The answer: `prepared` (then nothing was done), `removed` (`[what, bytes]`), `problems`.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from edgekd.targets.traces import cache_home, remove_orphans

KEPT = ("venv", "objects")
STATE = "prepared.json"


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Sessions that are open, the asking one among them, stay: their keepers remove them."""
    folder = Path(cache_home())
    removed: list[list[Any]] = []
    problems: list[str] = []
    if os.path.lexists(folder / STATE):
        return {"prepared": True, "removed": removed, "problems": problems}
    for path in (folder / name for name in KEPT):
        size = size_of(path)
        shutil.rmtree(path, ignore_errors=True)
        if os.path.lexists(path):
            problems.append(f"{path} cannot be removed")
        elif size is not None:
            removed.append([path.name, size])
    orphans = remove_orphans(str(folder / "sessions"))
    if orphans:
        removed.append([f"{orphans} dead sessions", 0])
    return {"prepared": False, "removed": removed, "problems": problems}


def size_of(folder: Path) -> int | None:
    """Bytes of all files below, links counted as themselves; None without a folder."""
    if not folder.is_dir():
        return None
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir() or path.is_symlink())
