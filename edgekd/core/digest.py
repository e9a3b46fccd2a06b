"""Content digests: the identity of files, of folders and of plain data."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

_CHUNK_BYTES = 1 << 20


def of_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def of_file(path: Path) -> str:
    """sha256 of a file's content."""
    state = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            state.update(chunk)
    return state.hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal data gives equal text. NaN is refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def of_data(value: Any) -> str:
    """sha256 of plain data (dicts, lists, strings, numbers, booleans, None)."""
    return of_bytes(canonical_json(value).encode())


def of_files(folder: Path, names: list[str]) -> dict[str, str]:
    """Relative name -> sha256 for the named files below `folder`."""
    return {name: of_file(folder / name) for name in sorted(names)}


def files_below(folder: Path) -> list[str]:
    """The relative names of all files below `folder`, sorted, with forward slashes."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
