"""Measures the artifacts of a finished run, of a portable one, or of a bundle, without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekd.core.artifact import MANIFEST, Artifact
from edgekd.core.durable import disk_error
from edgekd.core.errors import DataError, TargetError, UsageError
from edgekd.core.events import Emit
from edgekd.core.measurement import Measurement, Subject, is_sealed, read_measurements
from edgekd.core.run_record import MEASUREMENTS, RunRecord
from edgekd.data.evaluation import IMAGES, LABELS, write_evalset
from edgekd.measure.protocol import find_protocol
from edgekd.measure.runner import Item
from edgekd.pipeline.bundle import BUNDLE, Bundle, read_bundle
from edgekd.pipeline.history.record import Occasion
from edgekd.pipeline.portable.folder import PortableRun, find_portable
from edgekd.pipeline.portable.sessions import add_session, read_sessions
from edgekd.pipeline.recipe import load_recipe
from edgekd.pipeline.rejudge import locked_gate, read_locked, rejudge
from edgekd.pipeline.run_folder import RunFolder, again, find_run, read_record, step_artifact
from edgekd.pipeline.session import Order, Session, facts_for, items_of, measured, take
from edgekd.store.store import Store
from edgekd.targets.devices_file import DEVICES_FILE, LOCAL, read_targets, select_targets
from edgekd.targets.target import Target

DEFAULT_PROTOCOL = "quick"


def remeasure(
    store: Store,
    what: str | None,
    targets: Sequence[str] | None,
    protocol: str | None,
    evalset: str | None,
    emit: Emit,
) -> list[Measurement]:
    """Measure a run (`what`: as `find_run` takes it) or a bundle's folder; returns what was measured now.

    Of a run, the measurements on these targets are replaced and the verdict is written anew. A portable run
    gets a sealed session for each target. Interrupted, the same call goes on where it was; one that came to
    its end is measured anew. A bundle is never changed; it needs an `evalset`: a folder with images.npy and
    labels.npy, or a recipe whose test data to use. Raises `UsageError` for names that are unknown and
    evaluation sets that do not fit, `TargetError` for a target that cannot be reached.
    """
    if protocol is not None:
        find_protocol(protocol)
    if what is not None and (Path(what) / BUNDLE).is_file():
        return _bundle(store, read_bundle(Path(what)), targets or [LOCAL], protocol, evalset, emit)
    if evalset is not None:
        raise UsageError("a run has its evaluation sets already; leave out `--evalset`")
    if (portable := find_portable(what)) is not None:
        return _portable(store, portable, targets, protocol, emit)
    return _run(store, find_run(store, what), targets, protocol, emit)


def _run(
    store: Store, folder: Path, targets: Sequence[str] | None, protocol: str | None, emit: Emit
) -> list[Measurement]:
    record, locked = read_record(folder), read_locked(folder)
    if record.finished_at is None or not record.rows:
        raise UsageError("the run is not finished", where=str(folder), fix=again(record))
    order = _order(record, folder, chosen_targets(targets or _targets(locked)), protocol)
    kept = _kept(folder, order)
    measured = take(order, folder, store, emit, fresh=False, keep=kept)
    _note(record, folder, Session(order.key, [*kept, *measured]), order)
    rejudge(folder)
    return measured


def _order(record: RunRecord, folder: Path, chosen: Sequence[Target], protocol: str | None) -> Order:
    """All that the gate compares, in one session on each target. Raises `TargetError` for a lost one."""
    locked = read_locked(folder)
    graphs = {row.graph_step: step_artifact(record, folder, row.graph_step) for row in record.rows}
    check_whole(record, folder, graphs)
    items = items_of(record.rows, folder, graphs, locked_gate(folder, locked))
    return Order(
        items=items,
        targets=chosen,
        protocol=protocol or str(locked["measure"].get("protocol", DEFAULT_PROTOCOL)),
        labels=record.labels,
        seed=record.seed,
        device_facts=facts_for(items, chosen, record.final),
        occasion=Occasion.of_run(record, "measure"),
    )


def _targets(locked: Mapping[str, Any]) -> list[str]:
    return [str(name) for name in locked["targets"]]


def chosen_targets(names: Sequence[str]) -> list[Target]:
    """The named targets; raises `UsageError` for one that nothing describes."""
    return select_targets(names, read_targets(Path(DEVICES_FILE)))


def check_whole(record: RunRecord, folder: Path, graphs: dict[str, Artifact]) -> None:
    """Raises before anything is measured when the store has lost or changed what the run made."""
    for graph in graphs.values():
        graph.verify()
    for row in record.rows:
        if (folder / row.evalset / MANIFEST).is_file():
            Artifact.read((folder / row.evalset).resolve()).verify()
        if not (folder / row.evalset / IMAGES).is_file():
            raise UsageError(
                f"the evaluation set of `{row.name}` is no longer in the store",
                where=str(folder / row.evalset),
                fix=again(record),
            )


def _kept(folder: Path, order: Order) -> list[Measurement]:
    """What was measured of the same artifacts on targets that are not measured now."""
    path = folder / MEASUREMENTS
    subjects = {item.subject for item in order.items}
    replaced = {target.name for target in order.targets}
    before = read_measurements(path) if is_sealed(path) else []
    return [m for m in before if m.target not in replaced and m.subject in subjects]


def _note(record: RunRecord, folder: Path, session: Session, order: Order) -> None:
    names = dict.fromkeys([*record.targets, *(target.name for target in order.targets)])
    update = {
        "targets": tuple(names),
        "not_measured": session.not_measured,
        "provenance": {**record.provenance, "session_key": session.key},
    }
    RunFolder(folder).write_record(record.model_copy(update=update))


# --- a portable run -----------------------------------------------------------------------------------------


def _portable(
    store: Store,
    portable: PortableRun,
    targets: Sequence[str] | None,
    protocol: str | None,
    emit: Emit,
) -> list[Measurement]:
    """A session on each target; one that is lost is told of at the end, when the others are there."""
    portable.verify()
    read_sessions(portable)
    found: list[Measurement] = []
    lost: list[TargetError] = []
    for target in chosen_targets(targets or _targets(read_locked(portable.folder))):
        try:
            found += _portable_on(target, store, portable, protocol, emit)
        except TargetError as error:
            lost.append(error)
            emit({"event": "lost", "step": "session", "text": str(error)})
    if lost:
        raise lost[0]
    return found


def _portable_on(
    target: Target, store: Store, portable: PortableRun, protocol: str | None, emit: Emit
) -> Sequence[Measurement]:
    order = replace(
        _order(portable.record, portable.folder, [target], protocol), reference=portable.reference
    )
    work = f"portable-{portable.identity[:16]}-{order.key}"
    with store.lock(work):
        session = measured(order, store.work_folder(work), store, emit, fresh=False)
        folder = add_session(portable, store.work_folder(work), target.name, order.key)
        store.discard_work(work)
    emit({"event": "note", "text": f"session on {target.name}: {folder}"})
    return session.measurements


# --- a bundle -----------------------------------------------------------------------------------------------


def _bundle(
    store: Store,
    bundle: Bundle,
    targets: Sequence[str],
    protocol: str | None,
    evalset: str | None,
    emit: Emit,
) -> list[Measurement]:
    bundle.verify()
    if evalset is None:
        raise UsageError(
            "a bundle has no images to be measured on",
            where=str(bundle.folder),
            fix=f"--evalset FOLDER (with {IMAGES} and {LABELS}) or --evalset RECIPE.yaml",
        )
    chosen = chosen_targets(targets)
    folder = store.cache_folder(f"measured-{bundle.digest[:16]}")
    images, classes = evaluation_set(evalset, bundle, folder)
    item = Item(
        subject=bundle_subject(bundle),
        path=bundle.graph,
        preprocess=bundle.preprocess,
        evalset=images,
        labels=bundle.manifest.labels,
    )
    order = Order(
        items=[item],
        targets=chosen,
        protocol=protocol or DEFAULT_PROTOCOL,
        labels=classes,
        seed=0,
        device_facts=facts_for([item], chosen),
    )
    measured = take(order, folder, store, emit, fresh=False)
    emit({"event": "note", "text": f"measurements and raw samples: {folder}"})
    return measured


def bundle_subject(bundle: Bundle) -> Subject:
    """The bundle's artifact under the name that its own measurements gave it."""
    names = [m.subject.name for m in bundle.measurements() if m.subject.digest == bundle.digest]
    return Subject(
        name=names[0] if names else "bundle",
        digest=bundle.digest,
        backend=bundle.backend,
        precision=bundle.precision,
    )


def evaluation_set(given: str, bundle: Bundle, folder: Path) -> tuple[Path, tuple[str, ...]]:
    """A folder with images.npy and labels.npy, and the classes that the labels number.

    It is the folder given, whose classes are the bundle's, or written from a recipe's test data.
    """
    path = Path(given)
    if path.suffix in (".yaml", ".yml"):
        return _written(given, bundle, folder / "evalset")
    missing = [name for name in (IMAGES, LABELS) if not (path / name).is_file()]
    if missing:
        raise DataError(f"lacks {' and '.join(missing)}", where=given, choices=("a folder", "a recipe file"))
    return path, bundle.manifest.labels


def _written(recipe_file: str, bundle: Bundle, folder: Path) -> tuple[Path, tuple[str, ...]]:
    recipe = load_recipe(recipe_file)
    dataset = recipe.source.open(recipe.source.split_seed)
    if not set(bundle.manifest.labels) <= set(dataset.classes):
        raise DataError(
            f"the data's {len(dataset.classes)} classes are not the bundle's {len(bundle.manifest.labels)}",
            where=recipe_file,
        )
    try:
        write_evalset(dataset.test, bundle.preprocess, folder)
    except OSError as error:
        raise disk_error(folder, error) from error
    return folder, dataset.classes
