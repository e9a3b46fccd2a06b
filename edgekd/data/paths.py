"""Turning a path from a recipe into one that is there, or a clear error."""

from __future__ import annotations

from pathlib import Path

from edgekd.core.errors import DataError


def existing_folder(path: Path, where: str) -> Path:
    """The folder with `~` expanded; raises `DataError` naming its nearest existing parent's content."""
    folder = path.expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise DataError(f"`{path}` is a file, not a folder", where=where)
    raise _missing(folder, where)


def existing_file(path: Path, where: str) -> Path:
    """The file with `~` expanded; raises `DataError`."""
    file = path.expanduser()
    if file.is_file():
        return file
    if file.exists():
        raise DataError(f"`{path}` is a folder, not a file", where=where)
    raise _missing(file, where)


def _missing(path: Path, where: str) -> DataError:
    parent = next(p for p in path.absolute().parents if p.is_dir())
    inside = sorted(p.name for p in parent.iterdir())[:10]
    return DataError(
        f"`{path}` does not exist", where=where, fix=f"`{parent}` holds: {', '.join(inside) or '(nothing)'}"
    )
