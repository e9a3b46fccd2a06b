"""Looking after a store: its size, throwing away what nothing uses, moving artifacts between machines."""

from __future__ import annotations

import json
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgekd.core.artifact import MANIFEST, Artifact
from edgekd.core.digest import files_below
from edgekd.core.durable import disk_error, replacing, write_json
from edgekd.core.errors import StoreError, UsageError
from edgekd.store.store import Store

_NEW_S = 3600.0
_ABANDONED_S = 7 * 86400.0
_SECTIONS = ("objects", "work", "cache", "runs", "keys", "history")


def sizes(store: Store) -> dict[str, int]:
    """Bytes in each part of the store."""
    return {name: _bytes_below(store.root / name) for name in _SECTIONS}


@dataclass(frozen=True)
class Garbage:
    """What a clean-up would remove: paths and their total size."""

    paths: tuple[Path, ...]
    size_bytes: int


def garbage(store: Store, *, cache: bool = True) -> Garbage:
    """Objects that no run and no key uses, temporary leftovers, finished work, and the cache."""
    used = _used_digests(store)
    objects = [p for p in (store.root / "objects").iterdir() if p.name not in used]
    # A run publishes an object just before its key: what is new may be about to be used.
    paths = [p for p in objects if _untouched_s(p) > _NEW_S]
    paths += [p for p in (store.root / "work").iterdir() if _is_leftover(store, p)]
    if cache:
        paths += list((store.root / "cache").iterdir())
    return Garbage(tuple(sorted(paths)), sum(map(_bytes_below, paths)))


def collect(store: Store, *, forget_keys: bool = False, cache: bool = True) -> Garbage:
    """Remove the garbage. With `forget_keys`, artifacts that only keys (no run) hold go too."""
    if forget_keys:
        _forget_unrun_keys(store)
    found = garbage(store, cache=cache)
    for path in found.paths:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return found


def export(store: Store, keys: Iterable[str], archive: Path) -> int:
    """Write the artifacts of `keys` with their keys to a .tar; returns how many."""
    count = 0
    with replacing(archive) as temporary, tarfile.open(temporary, "w") as tar:
        for key in sorted(set(keys)):
            artifact = store.lookup(key)
            if artifact is None:
                continue
            tar.add(artifact.folder, arcname=f"objects/{artifact.digest}")
            tar.add(store.root / "keys" / f"{key}.json", arcname=f"keys/{key}.json")
            count += 1
    return count


def import_archive(store: Store, archive: Path) -> int:
    """Bring in what `export` wrote; every artifact is verified before it takes its name.

    Raises `UsageError` for anything that is not such an archive, including names that leave the store.
    """
    with tempfile.TemporaryDirectory(dir=store.root, prefix=".import-") as name:
        folder = Path(name)
        try:
            with tarfile.open(archive) as tar:
                for member in tar:
                    _check_member(member, archive)
                    tar.extract(member, folder, filter="data")
        except (tarfile.TarError, EOFError, ValueError) as error:
            raise UsageError(f"not a store archive: {error}", where=str(archive)) from error
        except OSError as error:
            raise disk_error(archive, error) from error
        return sum(_import_key(store, folder, path, archive) for path in sorted(folder.glob("keys/*.json")))


def _import_key(store: Store, folder: Path, path: Path, archive: Path) -> int:
    where = f"{archive}: keys/{path.name}"
    try:
        record = json.loads(path.read_text())
        digest = str(record["digest"])
        source = folder / "objects" / digest
        artifact = Artifact.read(source)
        artifact.verify()
    except StoreError as error:
        raise UsageError(f"broken artifact: {error.what}", where=where) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"broken artifact: {type(error).__name__}: {error}", where=where) from error
    if artifact.digest != digest:
        raise UsageError("the artifact's digest does not match", where=where)
    if set(files_below(source)) != {MANIFEST, *artifact.manifest.files}:
        raise UsageError("the artifact has files that its manifest does not list", where=where)
    destination = store.object_folder(digest)
    if not destination.exists():
        shutil.move(source, destination)
    write_json(store.root / "keys" / path.name, record)
    return 1


def _check_member(member: tarfile.TarInfo, archive: Path) -> None:
    parts = PurePosixPath(member.name).parts
    safe = parts and parts[0] in ("objects", "keys") and ".." not in parts
    if not safe or not (member.isfile() or member.isdir()):
        raise UsageError(f"unexpected member `{member.name}`", where=str(archive))


def _used_digests(store: Store) -> set[str]:
    used = set()
    for path in (store.root / "keys").glob("*.json"):
        record = store.key_record(path.stem)
        if record:
            used.add(str(record["digest"]))
    return used | _run_digests(store)


def _run_digests(store: Store) -> set[str]:
    links = [*(store.root / "runs").glob("*/*/steps/*"), *(store.root / "runs").glob("*/*/evalsets/*")]
    return {link.resolve().name for link in links if (link / MANIFEST).is_file()}


def _forget_unrun_keys(store: Store) -> None:
    kept = _run_digests(store)
    for path in (store.root / "keys").glob("*.json"):
        record = store.key_record(path.stem)
        if record is None or record["digest"] not in kept:
            path.unlink()


def _is_leftover(store: Store, work: Path) -> bool:
    """Whether nobody works on an unfinished step that was finished since, or that nobody came back to."""
    lock = store.lock(work.name)
    if not lock.try_acquire():
        return False
    lock.release()
    return store.key_record(work.name) is not None or _untouched_s(work) > _ABANDONED_S


def _untouched_s(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def _bytes_below(path: Path) -> int:
    if path.is_symlink() or path.is_file():
        return path.lstat().st_size
    return sum(p.lstat().st_size for p in path.rglob("*") if p.is_file() and not p.is_symlink())
