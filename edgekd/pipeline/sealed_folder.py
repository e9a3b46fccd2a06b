"""Folders that travel between machines: written whole or not at all, every file listed with its digest.

The list itself is a file with a seal beside it (`portable.json`, `portable.sha256`). A seal catches what was
cut short, mixed up or edited by hand; it is no signature: who writes a new one is not caught.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TypeVar

from pydantic import ValidationError

from edgekd.core.config import Config
from edgekd.core.digest import files_below, of_bytes, of_file
from edgekd.core.durable import disk_error, sync, write_text
from edgekd.core.errors import UsageError

M = TypeVar("M", bound="FileList")


class FileList(Config):
    """What a folder says of itself; subclasses add what it is."""

    schema_version: int = 1
    files: dict[str, str]
    """Relative name -> sha256."""


@contextmanager
def making_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `out`; on success it takes its name, and what was there is gone.

    Raises `StoreError` when the disk is full or the folder cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    except OSError as error:
        raise disk_error(out, error) from error
    try:
        yield temporary
        temporary.chmod(0o755)
        shutil.rmtree(out, ignore_errors=True)
        os.replace(temporary, out)
        sync(out.parent)
    except OSError as error:
        raise disk_error(out, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_list(folder: Path, name: str, content: FileList) -> None:
    """Write the list and its seal as the last files of a folder, and sync them."""
    text = content.model_dump_json(indent=1) + "\n"
    write_text(folder / name, text)
    write_text((folder / name).with_suffix(".sha256"), f"{of_bytes(text.encode())}  {name}\n")
    sync(folder)


def read_list(path: Path, kind: type[M], newest: int, fix: str) -> M:
    """A sealed list that anyone may have written. Raises `UsageError` naming the file."""
    try:
        content = path.read_bytes()
        sealed = path.with_suffix(".sha256").read_text(encoding="utf-8").split()[:1]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot be read: {error}", where=str(path), fix=fix) from error
    if sealed != [of_bytes(content)]:
        beside = path.with_suffix(".sha256").name
        raise UsageError(f"was changed or cut short: it does not match {beside}", where=str(path), fix=fix)
    found = _validated(kind, content, path)
    if found.schema_version > newest:
        text = f"written by a newer edgekd (schema {found.schema_version})"
        raise UsageError(text, where=str(path), fix="upgrade edgekd")
    for name in found.files:
        check_inside(name, path)
    return found


def _validated(kind: type[M], content: bytes, path: Path) -> M:
    try:
        return kind.model_validate_json(content)
    except ValidationError as error:
        told = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False)]
        raise UsageError(f"not what edgekd writes here: {'; '.join(told[:3])}", where=str(path)) from error


def check_inside(name: str, where: Path) -> None:
    """Raises `UsageError` for a name that leaves its folder."""
    if not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise UsageError(f"names a file outside its folder: `{name}`", where=str(where))


def differences(
    folder: Path, files: Mapping[str, str], *, of: str, allowed: Callable[[str], bool] = lambda name: False
) -> list[str]:
    """What of a folder is not as its list says: missing, not listed and not `allowed`, elsewhere, changed."""
    found = set(files_below(folder))
    problems = [f"missing: {name}" for name in sorted(set(files) - found)]
    extra = sorted(name for name in found - set(files) if not allowed(name))
    problems += [f"not part of the {of}: {name}" for name in extra]
    inside = folder.resolve()
    for name in sorted(found & set(files)):
        if not (folder / name).resolve().is_relative_to(inside):
            problems.append(f"links to a file outside the {of}: {name}")
        elif of_file(folder / name) != files[name]:
            problems.append(f"changed since it was bundled: {name}")
    return problems
