"""The folder of a run: its record, its events, its measurements and links to its artifacts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from edgekd.core.artifact import MANIFEST, Artifact
from edgekd.core.durable import disk_error, write_text
from edgekd.core.errors import UsageError
from edgekd.core.events import Emit, EventLog
from edgekd.core.run_record import EVENTS, LOCKED_RECIPE, RECORD, RunRecord
from edgekd.store.store import Store

ABLATION = ".ablation"
"""How the name of an ablation's runs ends. No recipe's name holds a dot, so none is taken for the other."""
AUDIT = ".audit"
"""How the name of an audit of somebody else's model ends."""


class RunFolder:
    """`runs/<recipe>/<id>/` in a store."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            (path / "steps").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(path, error) from error

    def event_log(self, listeners: Sequence[Emit]) -> EventLog:
        """A fresh log: a continued run tells its whole story again from what its artifacts hold."""
        path = self.path / EVENTS
        write_text(path, "")
        return EventLog(path, listeners)

    def write_recipe(self, locked: str) -> None:
        write_text(self.path / LOCKED_RECIPE, locked)

    def write_record(self, record: RunRecord) -> None:
        write_text(self.path / RECORD, record.model_dump_json(indent=1) + "\n")

    def link_step(self, number: int, name: str, object_folder: Path) -> Path:
        """Point `steps/NN-name` at an artifact; returns the link."""
        return self._link(self.path / "steps" / f"{number:02d}-{name}", object_folder)

    def link_evalset(self, object_folder: Path) -> Path:
        """Point `evalsets/<digest>` at an evaluation set; returns the link."""
        return self._link(self.path / "evalsets" / object_folder.name[:16], object_folder)

    def _link(self, link: Path, object_folder: Path) -> Path:
        link.parent.mkdir(exist_ok=True)
        target = Path(os.path.relpath(object_folder, link.parent))
        if link.is_symlink() and link.readlink() == target:
            return link
        temporary = link.with_name(f".{link.name}.tmp")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target)
        os.replace(temporary, link)
        return link


def read_record(folder: Path) -> RunRecord:
    """The record of a run; raises `UsageError` when the folder holds none that can be read."""
    path = folder / RECORD
    try:
        return RunRecord.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise UsageError("this folder holds no run", where=str(folder), fix="edgekd run RECIPE") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"the run's record cannot be read: {error}", where=str(path)) from error


def step_artifact(record: RunRecord, folder: Path, step_name: str) -> Artifact:
    """The artifact of one of the run's steps; raises `UsageError` when the store has let go of it."""
    step = next((step for step in record.steps if step.name == step_name), None)
    if step is None or step.folder is None:
        raise UsageError(f"the run has not made `{step_name}`", where=str(folder), fix=again(record))
    path = folder / step.folder
    if not (path / MANIFEST).is_file():
        raise UsageError("the run's artifact is no longer in the store", where=str(path), fix=again(record))
    return Artifact.read(path.resolve())


def final_graph(record: RunRecord, folder: Path) -> Artifact:
    """The artifact that ships; raises `UsageError` when the run has not come that far."""
    row = next((row for row in record.rows if row.name == record.final), None)
    if row is None:
        raise UsageError("the run is not finished", where=str(folder), fix=again(record))
    return step_artifact(record, folder, row.graph_step)


def again(record: RunRecord) -> str:
    """The command that goes on with a run."""
    if record.recipe.endswith(AUDIT):
        return " ".join(record.command)
    name = record.recipe.removesuffix(ABLATION)
    return f"edgekd {'run' if name == record.recipe else 'ablate'} {name}"


def find_run(store: Store, name: str | None) -> Path:
    """A run's folder from a path, a recipe's name (its latest run) or None (the latest run of all recipes).

    An ablation is found by its own name only (`tiny.ablation`): nobody means it who names none.
    """
    if name is not None and (Path(name) / RECORD).is_file():
        return Path(name)
    pattern = f"{name}/*/{RECORD}" if name is not None else f"*/*/{RECORD}"
    records = sorted((store.root / "runs").glob(pattern), key=lambda path: path.stat().st_mtime)
    if name is None:
        records = [path for path in records if path.parent.parent.suffix != ABLATION]
    if not records:
        known = sorted({path.parent.parent.name for path in (store.root / "runs").glob(f"*/*/{RECORD}")})
        what = f"no run of `{name}`" if name is not None else "no run yet"
        raise UsageError(what, where=str(store.root / "runs"), choices=known, fix="edgekd run quickstart")
    return records[-1].parent
