"""Makes a run portable: everything that measuring and judging it elsewhere needs, and nothing that only this
machine knows (paths, addresses, the command)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from edgekd.core.artifact import MANIFEST, Artifact, Manifest
from edgekd.core.digest import files_below, of_files
from edgekd.core.durable import disk_error, write_json, write_text
from edgekd.core.errors import UsageError
from edgekd.core.events import Emit
from edgekd.core.run_record import EVENTS, LOCKED_RECIPE, RunRecord, StepRecord
from edgekd.measure.protocol import PROTOCOLS
from edgekd.measure.reference import HOST, write_reference
from edgekd.pipeline.bundle import of_any_machine, read_bundle
from edgekd.pipeline.integrity import LOCKED_DIGEST
from edgekd.pipeline.plan import Plan
from edgekd.pipeline.portable.folder import PORTABLE, RELEASE_FOLDER, PortableList, PortableRun, find_portable
from edgekd.pipeline.rejudge import locked_gate, read_locked
from edgekd.pipeline.run_folder import again, read_record, step_artifact
from edgekd.pipeline.sealed_folder import check_inside, making_folder, write_list
from edgekd.pipeline.session import Order, items_of
from edgekd.report.redact import without_places
from edgekd.store.store import Store

_TOLD = ("epoch", "note", "retry")
"""Events that reports read."""
_EXACT = ("targets", "measure", "gate")
"""Sections of a recipe that are judged by: they hold no places but the release's, which comes along."""


def check_request(plan: Plan, until: str | None, out: Path) -> None:
    """Before anything is made. Raises `UsageError` unless it is the last export, into a new folder."""
    last = next(row.graph_step for row in plan.rows if row.name == plan.final)
    if until != last:
        raise UsageError(
            "a bundle of a run holds all that is to be measured, and nothing is measured here",
            where="--bundle",
            fix=f"--until {last} --bundle {out}; a bundle of what was measured: `edgekd bundle`",
        )
    _check_new(out)


def _check_new(out: Path) -> None:
    if out.exists():
        raise UsageError("the folder exists already", where=str(out), fix="remove it, or choose another one")


def pack(run_folder: Path, out: Path, store: Store, emit: Emit) -> PortableRun:
    """Write the portable run of a run whose artifacts are made; raises `UsageError` where they are not.

    Only `out` is written; interrupted, nothing is there, and the same call goes on.
    """
    record, locked = read_record(run_folder), read_locked(run_folder)
    if not record.rows:
        raise UsageError("the run's artifacts are not made yet", where=str(run_folder), fix=again(record))
    _check_new(out)
    with making_folder(out) as folder:
        graphs = _copy_artifacts(record, run_folder, folder)
        _ask_this_machine(record, run_folder, graphs, locked, store, emit, folder / HOST)
        if (release := locked["gate"].get("release")) is not None:
            _copy_release(Path(release), folder / RELEASE_FOLDER)
        _write_recipe(locked, folder / LOCKED_RECIPE)
        _write_events(run_folder / EVENTS, folder / EVENTS)
        files = of_files(folder, files_below(folder))
        told = _portable(record, files[LOCKED_RECIPE])
        write_list(folder, PORTABLE, PortableList(record=told, files=files))
    found = find_portable(out)
    assert found is not None
    return found


def _copy_artifacts(record: RunRecord, run_folder: Path, folder: Path) -> dict[str, Artifact]:
    """The graphs and the images of all rows; returns the graphs, as they are in the store, by step."""
    steps = {step.name: str(step.folder) for step in record.steps}
    graphs = {row.graph_step: step_artifact(record, run_folder, row.graph_step) for row in record.rows}
    for name, graph in graphs.items():
        _copy(graph, folder / steps[name])
    for evalset in sorted({row.evalset for row in record.rows}):
        check_inside(evalset, run_folder)
        _copy(Artifact.read((run_folder / evalset).resolve()), folder / evalset)
    return graphs


def _copy(artifact: Artifact, folder: Path) -> None:
    """The artifact with facts that hold no places; it is verified first."""
    artifact.verify()
    for name in artifact.manifest.files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(artifact.folder / name, folder / name)
    manifest = Manifest(
        kind=artifact.kind, facts=_without_places(artifact.facts), files=artifact.manifest.files
    )
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))


def _copy_release(release: Path, folder: Path) -> None:
    read_bundle(release).verify()
    shutil.copytree(release, folder)


def _ask_this_machine(
    record: RunRecord,
    run_folder: Path,
    graphs: Mapping[str, Artifact],
    locked: Mapping[str, Any],
    store: Store,
    emit: Emit,
    folder: Path,
) -> None:
    """What this machine answers on the test images: targets are compared with it, no limit is."""
    gate, protocol = locked_gate(run_folder, dict(locked)), str(locked["measure"]["protocol"])
    items = items_of(record.rows, run_folder, graphs, gate)
    key = Order(items, (), protocol, record.labels, record.seed, {}).key
    emit({"event": "step", "step": "bundle", "text": "this machine answers, for targets to be compared with"})
    with store.lock(f"host-{key}"):
        work, journal = store.work_folder(f"host-{key}"), store.journal(f"host-{key}")
        write_reference(items, PROTOCOLS[protocol], work / HOST, lambda name, text, ask: journal(name, ask))
        try:
            shutil.copytree(work / HOST, folder)
        except OSError as error:
            raise disk_error(folder, error) from error
        store.discard_work(f"host-{key}")


def _write_recipe(locked: Mapping[str, Any], path: Path) -> None:
    """The resolved recipe without places; what the gate compares with lies in the folder."""
    found = {key: value if key in _EXACT else without_places(value) for key, value in locked.items()}
    if found["gate"].get("release") is not None:
        found["gate"] = {**found["gate"], "release": RELEASE_FOLDER}
    write_text(path, yaml.safe_dump(found, sort_keys=False, allow_unicode=True))


def _write_events(source: Path, path: Path) -> None:
    write_text(path, "".join(json.dumps(event) + "\n" for event in _events(source)))


def _events(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        event = json.loads(line)
        if event.get("event") in _TOLD:
            yield without_places(event)


def _portable(record: RunRecord, locked_digest: str) -> RunRecord:
    own = of_any_machine(record)
    return own.model_copy(
        update={
            "description": without_places(record.description),
            "steps": tuple(_portable_step(step) for step in record.steps),
            "provenance": {**without_places(own.provenance), LOCKED_DIGEST: locked_digest},
            "not_measured": (),
        }
    )


def _portable_step(step: StepRecord) -> StepRecord:
    return step.model_copy(
        update={"facts": _without_places(step.facts), "measured": without_places(step.measured)}
    )


def _without_places(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Names of classes stay as they are: answers are counted by them."""
    return {name: value if name == "labels" else without_places(value) for name, value in facts.items()}
