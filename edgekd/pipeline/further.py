"""Measures single artifacts beside a session: soak, throughput, kernels, threads, end to end, LoadGen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekd.core.errors import UsageError
from edgekd.core.events import Emit
from edgekd.core.measurement import Measurement, read_sealed, write_measurements
from edgekd.core.run_record import MEASUREMENTS, SESSION
from edgekd.core.seed import derive
from edgekd.measure.end_to_end import measure_end_to_end
from edgekd.measure.findings import Item
from edgekd.measure.further import Rig, open_rig
from edgekd.measure.layers import measure_layers
from edgekd.measure.loadgen import run_loadgen
from edgekd.measure.offline import measure_offline
from edgekd.measure.protocol import find_protocol
from edgekd.measure.soak import measure_soak
from edgekd.measure.sweep import measure_sweep
from edgekd.pipeline.bundle import BUNDLE, read_bundle
from edgekd.pipeline.gate_policy import GatePolicy
from edgekd.pipeline.history.record import Occasion
from edgekd.pipeline.history.record import record as record_history
from edgekd.pipeline.portable.folder import find_portable
from edgekd.pipeline.remeasure import (
    DEFAULT_PROTOCOL,
    bundle_subject,
    check_whole,
    chosen_targets,
    evaluation_set,
)
from edgekd.pipeline.run_folder import again, find_run, read_record, step_artifact
from edgekd.pipeline.session import items_of
from edgekd.store.store import Store
from edgekd.targets.devices_file import LOCAL
from edgekd.targets.target import Target


@dataclass(frozen=True)
class Wish:
    """What is to be measured; nothing by default."""

    soak_s: float | None = None
    batch: int | None = None
    """Of the throughput."""
    layers: bool = False
    sweep: bool = False
    end_to_end: Path | None = None
    """A folder of image files."""
    loadgen: bool = False

    def __bool__(self) -> bool:
        return self != Wish()


@dataclass
class Found:
    """Measurements, and tables by target and subject: `layers`, `sweep`, `end_to_end`, `loadgen`."""

    folder: Path
    measurements: list[Measurement] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)

    def as_data(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "measurements": [one.model_dump(mode="json") for one in self.measurements],
            "tables": self.tables,
        }


@dataclass(frozen=True)
class _Place:
    """What is measured, and the folder whose measurements and session it belongs to."""

    items: list[Item]
    folder: Path
    targets: list[Target]
    seed: int
    a_run: bool
    occasion: Occasion = field(default_factory=Occasion)


def measure_further(
    store: Store,
    what: str | None,
    targets: Sequence[str] | None,
    protocol: str | None,
    evalset: str | None,
    rows: Sequence[str],
    wish: Wish,
    emit: Emit,
) -> Found:
    """Measure what the wish says of some `rows` of a run (none: the one that ships), or of a bundle.

    A run's further measurements stand beside those of its session until that is taken again; raw results and
    tables lie in its session's folder. Raises `UsageError`, among others on an emulated target, and
    `TargetError`.
    """
    place = _place(store, what, targets, evalset, rows)
    chosen = find_protocol(protocol or DEFAULT_PROTOCOL)
    found = Found(place.folder / SESSION)
    for target in place.targets:
        seed = derive(place.seed, "further", target.name)
        with open_rig(target, chosen, place.folder / SESSION, emit, seed) as rig:
            _measure(rig, place.items, wish, found)
    if place.a_run and found.measurements:
        _add(place.folder / MEASUREMENTS, found.measurements)
    record_history(store, place.occasion, found.measurements)
    return found


def _measure(rig: Rig, items: list[Item], wish: Wish, found: Found) -> None:
    """The long one last: what went before is kept if it is interrupted."""
    for item in items:
        about = {"target": rig.device.target.name, "subject": item.subject.name}
        if wish.layers:
            found.tables.append({**about, "kind": "layers", "rows": measure_layers(rig, item)})
        if wish.sweep:
            found.tables.append({**about, "kind": "sweep", "rows": measure_sweep(rig, item)})
        if wish.end_to_end is not None:
            told = measure_end_to_end(rig, item, wish.end_to_end)
            found.tables.append({**about, "kind": "end_to_end", **told})
        if wish.loadgen:
            told = {name: run_loadgen(rig, item, name) for name in ("SingleStream", "Offline")}
            found.tables.append({**about, "kind": "loadgen", "scenarios": told})
    if wish.batch is not None:
        found.measurements += measure_offline(rig, items, wish.batch)
    if wish.soak_s is not None:
        found.measurements += measure_soak(rig, items, wish.soak_s)


def _place(
    store: Store,
    what: str | None,
    targets: Sequence[str] | None,
    evalset: str | None,
    rows: Sequence[str],
) -> _Place:
    if what is not None and (Path(what) / BUNDLE).is_file():
        return _of_bundle(store, Path(what), targets or [LOCAL], evalset, rows)
    if evalset is not None:
        raise UsageError("a run has its evaluation sets already; leave out `--evalset`")
    if find_portable(what) is not None:
        raise UsageError(
            "a portable run takes whole sessions only",
            where=what,
            fix="measure such things of a run, or of the bundle that `edgekd bundle` makes of this one",
        )
    folder = find_run(store, what)
    record = read_record(folder)
    if record.finished_at is None or not record.rows:
        raise UsageError("the run is not finished", where=str(folder), fix=again(record))
    names = [row.name for row in record.rows]
    wanted = list(rows) or [record.final]
    for name in wanted:
        if name not in names:
            raise UsageError(f"`{name}` is no row of the run", where=str(folder), choices=names)
    graphs = {row.graph_step: step_artifact(record, folder, row.graph_step) for row in record.rows}
    check_whole(record, folder, graphs)
    items = [
        item for item in items_of(record.rows, folder, graphs, GatePolicy()) if item.subject.name in wanted
    ]
    chosen = chosen_targets(targets or list(record.targets))
    return _Place(items, folder, chosen, record.seed, True, Occasion.of_run(record, "measure"))


def _of_bundle(
    store: Store, path: Path, targets: Sequence[str], evalset: str | None, rows: Sequence[str]
) -> _Place:
    bundle = read_bundle(path)
    bundle.verify()
    if rows:
        raise UsageError("a bundle has one artifact; leave out `--row`", where=str(path))
    if evalset is None:
        raise UsageError(
            "a bundle has no images to be timed on", where=str(path), fix="--evalset FOLDER or RECIPE.yaml"
        )
    folder = store.cache_folder(f"measured-{bundle.digest[:16]}")
    images, _ = evaluation_set(evalset, bundle, folder)
    labels = bundle.manifest.labels
    item = Item(bundle_subject(bundle), bundle.graph, bundle.preprocess, images, labels)
    return _Place([item], folder, chosen_targets(targets), 0, False)


def _add(path: Path, measured: Sequence[Measurement]) -> None:
    """Beside the session's; what was measured of the same before gives way."""
    key = {(m.quantity, m.subject.name, m.target) for m in measured}
    before = read_sealed(path) if path.is_file() else []
    kept = [m for m in before if (m.quantity, m.subject.name, m.target) not in key]
    write_measurements(path, [*kept, *measured])
