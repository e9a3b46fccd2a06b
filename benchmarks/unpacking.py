"""Checking and unpacking archives that were given as a path, for the `prepare_*.py` programs."""

from __future__ import annotations

import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from edgekd.core.digest import of_file
from edgekd.core.errors import DataError

_MAX_MEMBER_BYTES = 64 << 20


def verified(path: Path, sha256: str) -> Path:
    """The path, once its content has been checked; raises `DataError`."""
    try:
        actual = of_file(path)
    except OSError as error:
        raise DataError(f"cannot read: {error.strerror}", where=str(path)) from error
    if actual != sha256:
        raise DataError(f"sha256 is {actual}, expected {sha256}: another or a damaged file", where=str(path))
    return path


def members(path: Path, allowed: str) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every file in a zip, by name, with progress on stderr.

    Raises `DataError` for a name that the regular expression `allowed` does not match whole (so none can
    leave the output folder) and for a member that is unreasonably large.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = sorted((i for i in archive.infolist() if not i.is_dir()), key=lambda i: i.filename)
            for info in infos:
                _check(info, allowed, path)
            for number, info in enumerate(infos, 1):
                yield info.filename, archive.read(info)
                progress(path.name, number, len(infos))
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"not a readable zip archive: {error}", where=str(path)) from error


def _check(info: zipfile.ZipInfo, allowed: str, path: Path) -> None:
    if not re.fullmatch(allowed, info.filename) or ".." in info.filename.split("/"):
        raise DataError(f"holds an unexpected name, `{info.filename}`", where=str(path))
    if info.file_size > _MAX_MEMBER_BYTES:
        raise DataError(f"`{info.filename}` declares {info.file_size} bytes", where=str(path))


def progress(what: str, done: int, total: int) -> None:
    """One line that rewrites itself on a terminal; the last count alone elsewhere."""
    if sys.stderr.isatty():
        print(f"\r{what}: {done}/{total}", end="\n" if done == total else "", file=sys.stderr, flush=True)
    elif done == total:
        print(f"{what}: {done}/{total}", file=sys.stderr)
