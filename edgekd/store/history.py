"""The history in a store: one file of JSON lines a recipe or artifact, which only ever grows."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekd.core.durable import disk_error, sync
from edgekd.core.errors import StoreError, UsageError
from edgekd.store.store import Store

RECIPES, ARTIFACTS = "recipes", "artifacts"


@dataclass
class Lines:
    """What was read. `problems` says how many lines of which file were damaged and left out."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class HistoryLog:
    """`history/recipes/<name>.jsonl` and `history/artifacts/<digest>.jsonl` of one store."""

    def __init__(self, store: Store) -> None:
        self.folder = store.root / "history"
        self._lock = store.lock("history")

    def append(self, kind: str, name: str, entry: Mapping[str, Any]) -> bool:
        """Add an entry with a unique `id` for good; returns False if it was there already.

        Raises `StoreError` when it cannot be written (what was there stays), `UsageError` for a name that
        cannot name a file.
        """
        path = self._file(kind, name)
        line = json.dumps(entry, allow_nan=False, separators=(",", ":")).encode()
        with self._lock:
            try:
                if path.is_file() and json.dumps(entry["id"]).encode() in path.read_bytes():
                    return False
                _append(path, line)
            except OSError as error:
                raise disk_error(path, error) from error
        return True

    def recipes(self) -> list[str]:
        """The recipes that have a history, the one measured last at the end."""
        paths = (self.folder / RECIPES).glob("*.jsonl")
        return [path.stem for path in sorted(paths, key=lambda path: path.stat().st_mtime)]

    def of_recipe(self, name: str) -> Lines:
        return self._read([self._file(RECIPES, name)], "")

    def holding(self, text: str) -> Lines:
        """The entries of every file whose line has `text` somewhere: a digest, or the beginning of one."""
        return self._read(sorted(self.folder.glob("*/*.jsonl")), text)

    def _file(self, kind: str, name: str) -> Path:
        if not name or Path(name).name != name or name.startswith(".") or "\0" in name:
            raise UsageError(f"`{name}` cannot name a history: it names a file")
        return self.folder / kind / f"{name}.jsonl"

    def _read(self, paths: list[Path], text: str) -> Lines:
        found, seen = Lines(), set()
        for path in paths:
            damaged = 0
            for entry in _entries(path, text.encode()):
                if entry is None:
                    damaged += 1
                elif entry["id"] not in seen:
                    seen.add(entry["id"])
                    found.entries.append(entry)
            if damaged:
                lines = "1 line is" if damaged == 1 else f"{damaged} lines are"
                found.problems.append(f"{path}: {lines} damaged and left out")
        return found


def _append(path: Path, line: bytes) -> None:
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as stream:
        # A leading newline ends a line that a kill cut short.
        stream.write(b"\n" + line + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    if new:
        sync(path.parent)
        sync(path.parent.parent)


def _entries(path: Path, text: bytes) -> Iterator[dict[str, Any] | None]:
    """Each entry that has `text`; None for a line that is none."""
    try:
        lines = path.read_bytes().split(b"\n") if path.is_file() else []
    except OSError as error:
        raise StoreError(f"cannot read the history: {error.strerror or error}", where=str(path)) from error
    for line in lines:
        if not line.strip() or text not in line:
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        whole = isinstance(entry, dict) and isinstance(entry.get("id"), str)
        yield entry if whole else None
