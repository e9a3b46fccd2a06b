"""The store: artifacts named by content, found by step key, made by one process at a time.

.edgekd/
  objects/<digest>/   an artifact: manifest.json and its files, never changed
  keys/<key>.json     step key -> artifact digest, with the ingredients of the key
  work/<key>/         the folder of a step in progress; survives a kill, so the step resumes
  cache/              evictable: may be deleted at any time
  locks/              one file per key; held with flock, released by the kernel when a process dies
  runs/<recipe>/<id>/
  history/            what was measured, for good: a file a recipe or artifact, only ever appended to
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekd.core.artifact import MANIFEST, Artifact, Kind, Manifest
from edgekd.core.digest import of_files
from edgekd.core.durable import disk_error, sync, write_json
from edgekd.core.errors import StoreError
from edgekd.store.journal import Journal
from edgekd.store.lock import Lock

LAYOUT_VERSION = 1


class Store:
    """One store below `root`, created on first use. Raises `StoreError` when it cannot be written."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        try:
            for name in ("objects", "keys", "work", "cache", "locks", "runs", "history"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(self.root, error) from error
        self._check_layout()

    def _check_layout(self) -> None:
        path = self.root / "layout.json"
        if not path.exists():
            write_json(path, {"version": LAYOUT_VERSION})
            return
        try:
            version = json.loads(path.read_text())["version"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"not an edgekd store: {error}", where=str(path)) from error
        if version != LAYOUT_VERSION:
            raise StoreError(
                f"store layout {version}, this edgekd reads {LAYOUT_VERSION}",
                where=str(self.root),
                fix="use the edgekd that wrote it, or another folder (`--store DIR`)",
            )

    def lookup(self, key: str) -> Artifact | None:
        """The artifact of a step key, or None when there is none whole enough to use."""
        record = self.key_record(key)
        return self.artifact(str(record["digest"])) if record else None

    def artifact(self, digest: str) -> Artifact | None:
        folder = self.object_folder(digest)
        if not (folder / MANIFEST).is_file():
            return None
        artifact = Artifact.read(folder)
        artifact.verify()
        return artifact

    def object_folder(self, digest: str) -> Path:
        return self.root / "objects" / digest

    def key_record(self, key: str) -> dict[str, Any] | None:
        """What is known about a key: `digest` and the `ingredients` it was made of."""
        try:
            record = json.loads((self.root / "keys" / f"{key}.json").read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise StoreError(f"unreadable key: {error}", where=f"keys/{key}.json") from error
        return record if isinstance(record, dict) and "digest" in record else None

    def work_folder(self, key: str) -> Path:
        """The folder of the step `key` in progress; what an interrupted attempt left is still in it."""
        folder = self.root / "work" / key
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(folder, error) from error
        return folder

    def discard_work(self, key: str) -> None:
        shutil.rmtree(self.root / "work" / key, ignore_errors=True)

    def forget(self, key: str) -> None:
        """Drop a key and its unfinished work; the object stays until `gc`."""
        (self.root / "keys" / f"{key}.json").unlink(missing_ok=True)
        self.discard_work(key)

    def lock(self, name: str) -> Lock:
        return Lock(self.root / "locks" / f"{name}.lock")

    def journal(self, key: str) -> Journal:
        return Journal(self.work_folder(key) / "journal.jsonl")

    def cache_folder(self, name: str) -> Path:
        folder = self.root / "cache" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def commit(
        self,
        key: str,
        *,
        kind: Kind,
        facts: Mapping[str, Any],
        folder: Path,
        files: Sequence[str],
        ingredients: Mapping[str, Any],
        measured: Mapping[str, Any] | None = None,
    ) -> Artifact:
        """Make `files` of `folder` the artifact of `key`: copied to a temporary name, synced, renamed.

        `measured` (timings and the like) is kept with the key: it is no part of the artifact.
        """
        try:
            artifact = self._store_object(kind, facts, folder, files)
        except OSError as error:
            raise disk_error(self.root, error) from error
        write_json(
            self.root / "keys" / f"{key}.json",
            {"digest": artifact.digest, "ingredients": dict(ingredients), "measured": dict(measured or {})},
        )
        return artifact

    def _store_object(
        self, kind: Kind, facts: Mapping[str, Any], folder: Path, files: Sequence[str]
    ) -> Artifact:
        manifest = Manifest(kind=kind, facts=dict(facts), files=of_files(folder, list(files)))
        destination = self.object_folder(manifest.digest)
        if _is_whole(destination):
            return Artifact.read(destination)
        temporary = destination.with_name(f".{manifest.digest[:16]}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            for name in manifest.files:
                copy = temporary / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / name, copy)
                sync(copy)
            write_json(temporary / MANIFEST, manifest.model_dump(mode="json"))
            _publish(temporary, destination)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return Artifact.read(destination)


def _is_whole(folder: Path) -> bool:
    """Whether an artifact is there as it was made; a damaged one is replaced by its equal."""
    try:
        Artifact.read(folder).verify()
    except StoreError:
        return False
    return True


def _publish(temporary: Path, destination: Path) -> None:
    """Give a finished folder its final name. A half-made leftover of that name is replaced."""
    if destination.exists():
        shutil.rmtree(destination)
    os.replace(temporary, destination)
    sync(destination.parent)
