"""An artifact: files plus a manifest, written once, named by the digest of their content."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import field_validator

from edgekd.core.config import Config
from edgekd.core.digest import of_data, of_file
from edgekd.core.errors import StoreError

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1

_FIX = "`edgekd run RECIPE --fresh` makes it again"

Kind = Literal["data", "evalset", "model", "architecture", "latency", "graph"]


class Manifest(Config):
    """What an artifact is. `facts` is plain data that depends on the kind (see `docs/concepts.md`)."""

    schema_version: int = SCHEMA_VERSION
    kind: Kind
    facts: dict[str, Any]
    files: dict[str, str]
    """Relative file name -> sha256."""

    @field_validator("files")
    @classmethod
    def _stays_inside(cls, files: dict[str, str]) -> dict[str, str]:
        for name in files:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise ValueError(f"it names a file outside itself: `{name}`")
        return files

    @property
    def digest(self) -> str:
        return of_data(self.model_dump(mode="json"))


class Artifact:
    """A stored artifact: a folder that holds `manifest.json` and the files it names."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    @classmethod
    def read(cls, folder: Path) -> Artifact:
        """Raises `StoreError` when the manifest is absent, cut short or of a newer schema."""
        path = folder / MANIFEST
        try:
            manifest = Manifest.model_validate_json(path.read_bytes())
        except (OSError, ValueError) as error:
            raise StoreError(f"not a readable artifact manifest: {error}", where=str(path)) from error
        if manifest.schema_version > SCHEMA_VERSION:
            raise StoreError(
                f"written by a newer edgekd (schema {manifest.schema_version})",
                where=str(path),
                fix="upgrade edgekd",
            )
        return cls(folder, manifest)

    @property
    def kind(self) -> Kind:
        return self.manifest.kind

    @property
    def facts(self) -> dict[str, Any]:
        return self.manifest.facts

    @property
    def digest(self) -> str:
        return self.manifest.digest

    def path(self, name: str) -> Path:
        """The path of one of its files; raises `StoreError` for a name the manifest does not hold."""
        if name not in self.manifest.files:
            raise StoreError(
                f"the artifact has no file `{name}`",
                where=str(self.folder),
                choices=self.manifest.files,
            )
        return self.folder / name

    def verify(self) -> None:
        """Recompute every file's digest; raises `StoreError` naming the first that differs."""
        for name, expected in self.manifest.files.items():
            try:
                actual = of_file(self.folder / name)
            except OSError as error:
                raise StoreError(f"cannot read: {error}", where=str(self.folder / name), fix=_FIX) from error
            if actual != expected:
                where = str(self.folder / name)
                raise StoreError("content does not match its digest", where=where, fix=_FIX)
