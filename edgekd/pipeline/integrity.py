"""Whether a run's folder still says what was measured: files that were changed since speak against a pass."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgekd.core.digest import of_file
from edgekd.core.measurement import SEAL, is_sealed
from edgekd.core.run_record import LOCKED_RECIPE, MEASUREMENTS, Finding, RunRecord

SOURCES = "sources"
"""Key of a record's provenance: file -> sha256 of what was taken into the run from outside."""


LOCKED_DIGEST = "recipe_sha256"
"""Key of a record's provenance: of the resolved recipe, with the limits that were asked for."""


def integrity(folder: Path, record: RunRecord) -> tuple[Finding, ...]:
    """What has changed in or around a finished run since it was measured."""
    return (*_measurements(folder), *_limits(folder, record), *_sources(record))


def _measurements(folder: Path) -> Iterator[Finding]:
    if not is_sealed(folder / MEASUREMENTS):
        yield Finding(
            name="measurements-changed",
            text=f"{MEASUREMENTS} is not what was written after measuring: it does not match {SEAL}",
            fix="measure again: `edgekd measure`",
        )


def _limits(folder: Path, record: RunRecord) -> Iterator[Finding]:
    digest = record.provenance.get(LOCKED_DIGEST)
    if digest is not None and of_file(folder / LOCKED_RECIPE) != digest:
        yield Finding(
            name="limits-changed",
            text=f"{LOCKED_RECIPE} is not what the run was made by",
            fix="other limits go into `--set gate.KEY=VALUE`, or into the recipe and a run of it",
        )


def _sources(record: RunRecord) -> Iterator[Finding]:
    """A file that is no longer where it was says nothing; one with other content is another artifact."""
    sources = record.provenance.get(SOURCES, {})
    for name, digest in sources.items() if isinstance(sources, dict) else ():
        path = Path(name)
        if path.is_file() and of_file(path) != digest:
            yield Finding(
                name="model-changed",
                text=f"{path.name} is not the file that was measured: it has changed since",
                fix="audit it again",
            )
