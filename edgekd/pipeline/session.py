"""The final session: every row of the waterfall measured on every target, once, on test data."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgekd.backends.catalogue import BACKENDS
from edgekd.core.artifact import MANIFEST, Artifact
from edgekd.core.digest import of_data, of_file, of_files
from edgekd.core.durable import disk_error, write_json, write_text
from edgekd.core.errors import TargetError
from edgekd.core.events import Emit
from edgekd.core.measurement import Measurement, Subject, is_sealed, read_measurements, write_measurements
from edgekd.core.preprocess import Preprocess
from edgekd.core.run_record import MEASUREMENTS, SESSION, VERDICT, Row, RunRecord
from edgekd.core.seed import derive
from edgekd.core.verdict import Verdict
from edgekd.data.evaluation import IMAGES, LABELS
from edgekd.measure.probes import device_facts
from edgekd.measure.protocol import PROTOCOLS
from edgekd.measure.runner import Item, measure_session
from edgekd.pipeline.bundle import read_bundle
from edgekd.pipeline.gate import MEASURE, GatePolicy, judge, with_findings
from edgekd.pipeline.history.record import Occasion
from edgekd.pipeline.history.record import record as record_history
from edgekd.pipeline.keys import code_digest
from edgekd.pipeline.plan import Plan
from edgekd.pipeline.surroundings import Settings, Surroundings, stable_digest
from edgekd.store.store import Store
from edgekd.targets.target import Target

RELEASE, STUDENT = "release", "student"
STATE = "session.json"
_CODE = "edgekd.measure"
_RUNTIMES = ("further", "absent")
"""Facts of a device beside the stable ones: which runtimes of rows beside the shipped one it has."""


@dataclass(frozen=True)
class Session:
    """What the final session found, and the key it was found under."""

    key: str
    measurements: Sequence[Measurement]

    @property
    def not_measured(self) -> tuple[str, ...]:
        return not_measured(self.measurements)


def not_measured(measurements: Sequence[Measurement]) -> tuple[str, ...]:
    """`quantity: reason` of what has no value."""
    return tuple(sorted({f"{m.quantity}: {m.not_measured}" for m in measurements if m.not_measured}))


@dataclass(frozen=True)
class Order:
    """What one session measures, where and how thoroughly."""

    items: Sequence[Item]
    targets: Sequence[Target]
    protocol: str
    labels: Sequence[str]
    seed: int
    device_facts: Mapping[str, Mapping[str, Any]]
    """Target -> what its agent says of it."""
    occasion: Occasion = field(default_factory=Occasion)
    """Under what the history keeps it; no part of the key."""
    reference: Path | None = None
    """What another machine answered, to compare targets with in place of this one."""

    @property
    def key(self) -> str:
        """What the session's numbers depend on."""
        return of_data(
            {
                "items": [
                    [
                        i.subject.model_dump(mode="json"),
                        _content(i.evalset),
                        i.labels,
                        i.preprocess.model_dump(mode="json"),
                    ]
                    for i in self.items
                ],
                "labels": list(self.labels),
                "protocol": PROTOCOLS[self.protocol].model_dump(mode="json"),
                "targets": stable_digest(self.device_facts),
                "target_settings": [target.facts() for target in self.targets],
                "seed": self.seed,
                "runtimes": {
                    name: {key: facts.get(key) for key in _RUNTIMES}
                    for name, facts in self.device_facts.items()
                },
                "code": [
                    code_digest(_CODE),
                    *(of_file(file) for name in self.backends for file in BACKENDS.load(name).device_files),
                ],
            }
        )

    @property
    def backends(self) -> tuple[str, ...]:
        return backends_of(self.items)


def backends_of(items: Sequence[Item]) -> tuple[str, ...]:
    return tuple(sorted({item.subject.backend for item in items}))


def facts_for(
    items: Sequence[Item], targets: Sequence[Target], final: str | None = None
) -> dict[str, dict[str, Any]]:
    """What the targets say of themselves: each must have every item's runtime, or only `final`'s if named.

    Raises `TargetError`, of which `AbsentRuntimeError` is one.
    """
    needed = backends_of([item for item in items if final in (None, item.subject.name)])
    further = [name for name in backends_of(items) if name not in needed]
    return {target.name: device_facts(target, backends=needed, further=further) for target in targets}


def _content(evalset: Path) -> str | dict[str, str]:
    """What an evaluation set holds: the name of one in the store, else what its files are."""
    if (evalset / MANIFEST).is_file():
        return evalset.resolve().name
    return of_files(evalset, [IMAGES, LABELS])


def measure_run(
    record: RunRecord,
    folder: Path,
    artifacts: Mapping[str, Artifact],
    plan: Plan,
    store: Store,
    around: Surroundings,
    settings: Settings,
    emit: Emit,
) -> Session:
    """Measure all rows on all targets, or read back the session that did exactly this already."""
    order = Order(
        items=items_of(record.rows, folder, artifacts, plan.recipe.gate),
        targets=plan.recipe.targets,
        protocol=plan.recipe.measure.protocol,
        labels=around.data.dataset.classes,
        seed=plan.recipe.seed,
        device_facts=around.target_facts,
        occasion=Occasion.of_run(record, "run"),
    )
    return measured(order, folder, store, emit, fresh=settings.fresh)


def measured(order: Order, folder: Path, store: Store, emit: Emit, *, fresh: bool) -> Session:
    """What is ordered, measured now or, unless it is to be `fresh`, read back if exactly this was."""
    emit({"event": "step", "step": "session", "text": "measuring every artifact on every target"})
    measurements = None if fresh else _remembered(folder, order.key)
    if measurements is None:
        measurements = take(order, folder, store, emit, fresh=fresh)
    emit({"event": "step_done", "step": "session", "status": "measured", "facts": {}})
    return Session(order.key, measurements)


def take(
    order: Order,
    folder: Path,
    store: Store,
    emit: Emit,
    *,
    fresh: bool,
    keep: Sequence[Measurement] = (),
) -> list[Measurement]:
    """Measure what is ordered and write it, after what is to be kept, into `folder`; returns the new ones.

    Interrupted, the same order goes on where it was, unless it is to be `fresh`. Raises `TargetError`,
    `ModelError`, `DataError` and `UsageError` as `measure_session` does; the old measurements then stay.
    """
    key = order.key
    work = f"session-{key}"
    with store.lock(work):
        if fresh:
            store.forget(work)
        _forget(folder)
        journal = store.journal(work)
        measurements: list[Measurement] = []
        lost: list[TargetError] = []
        for target in order.targets:
            measurements += _or_lost(lost, measure_session)(
                order.items,
                target=target,
                protocol=PROTOCOLS[order.protocol],
                baselines=[item.subject.name for item in order.items],
                labels=order.labels,
                folder=folder / SESSION,
                journal=journal,
                emit=lambda event: emit({"step": "session", **event}),
                seed=derive(order.seed, "session", target.name),
                reference=order.reference,
            )
        if len(lost) == len(order.targets):
            raise lost[0]
        write_measurements(folder / MEASUREMENTS, [*keep, *measurements])
        record_history(
            store, order.occasion, measurements, items=order.items, classes=order.labels, folder=folder
        )
        for error in lost:
            emit({"event": "lost", "step": "session", "text": str(error)})
        if not lost:
            write_json(folder / SESSION / STATE, {"key": key})
            store.discard_work(work)
    return measurements


def _or_lost(
    lost: list[TargetError], measure: Callable[..., list[Measurement]]
) -> Callable[..., list[Measurement]]:
    """`measure`, but a lost target is noted and gives nothing: what the others say still counts."""

    def attempt(*arguments: Any, **named: Any) -> list[Measurement]:
        try:
            return measure(*arguments, **named)
        except TargetError as error:
            lost.append(error)
            return []

    return attempt


def items_of(
    rows: Sequence[Row], folder: Path, artifacts: Mapping[str, Artifact], gate: GatePolicy
) -> list[Item]:
    """What a session measures: every row's graph on its evaluation set, and the gate's release beside."""
    items = []
    for row in rows:
        graph = artifacts[row.graph_step]
        items.append(
            Item(
                subject=subject_of(row, graph),
                path=graph.path(graph.facts["file"]),
                preprocess=Preprocess.model_validate(graph.facts["preprocess"]),
                evalset=folder / row.evalset,
                labels=tuple(graph.facts.get("labels", ())),
            )
        )
    if gate.release is not None:
        items.append(_release_item(Path(gate.release), items))
    return items


def subject_of(row: Row, graph: Artifact) -> Subject:
    return Subject(
        name=row.name,
        digest=graph_digest(graph),
        backend=graph.facts["backend"],
        precision=graph.facts["precision"],
    )


def graph_digest(graph: Artifact) -> str:
    """sha256 of the exported file itself: what a device can check."""
    return graph.manifest.files[graph.facts["file"]]


def judge_run(
    plan: Plan,
    record: RunRecord,
    folder: Path,
    measurements: Sequence[Measurement],
    artifacts: Mapping[str, Artifact],
) -> Verdict:
    """Judge the final row by the recipe's gate and write the verdict into the run's folder."""
    final = next(row for row in plan.rows if row.name == plan.final)
    verdict = judge_final(plan.recipe.gate, measurements, record, artifacts[final.graph_step])
    write_verdict(folder, verdict)
    return verdict


def judge_final(
    gate: GatePolicy,
    measurements: Sequence[Measurement],
    record: RunRecord,
    graph: Artifact,
    *,
    now: datetime | None = None,
    measure: str = MEASURE,
) -> Verdict:
    """The verdict, as of `now`, on the record's final row, whose artifact is `graph`.

    What an audit found beside the limits counts as well. `measure` is the command that measures it again.
    """
    verdict = judge(
        gate,
        measurements,
        final=record.final,
        final_digest=graph_digest(graph),
        targets=record.targets,
        now=now or datetime.now(UTC),
        against=compared_with(measurements, record),
        measure=measure,
    )
    return with_findings(verdict, record.findings, measurements, record.final)


def compared_with(measurements: Sequence[Measurement], record: RunRecord) -> dict[str, Subject]:
    """Every subject of a session by its row's name, and the float student by the word `student`."""
    subjects = {m.subject.name: m.subject for m in measurements}
    student = student_row(record)
    return {**subjects, **({STUDENT: subjects[student]} if student in subjects else {})}


def student_row(record: RunRecord) -> str | None:
    """What `against: student` means: the float student that the final artifact was made from."""
    shipped = [row for row in record.rows if row.role != "alternative"]
    by_model = {row.model_step: row for row in shipped if row.precision == "fp32"}
    own = next((row.model_step for row in record.rows if row.name == record.final), None)
    for step in _ancestors(record, own):
        if step in by_model and by_model[step] is not record.rows[0]:
            return by_model[step].name
    controls = [row.name for row in record.rows if row.role == "control" and row.precision == "fp32"]
    return controls[0] if controls else None


def _ancestors(record: RunRecord, step: str | None) -> Iterator[str]:
    """The steps that a model was made from, the nearest first; its teachers are not among them."""
    inputs = {one.name: one.inputs for one in record.steps}
    while step is not None:
        step = inputs.get(step, {}).get("model") or inputs.get(step, {}).get("student")
        if step is not None:
            yield step


def _release_item(bundle_folder: Path, items: Sequence[Item]) -> Item:
    """The artifact of an earlier bundle, measured beside the others on the same images."""
    bundle = read_bundle(bundle_folder)
    bundle.verify()
    same = next((i.evalset for i in items if i.preprocess.size == bundle.preprocess.size), items[-1].evalset)
    subject = Subject(name=RELEASE, digest=bundle.digest, backend=bundle.backend, precision=bundle.precision)
    labels = bundle.manifest.labels
    return Item(subject=subject, path=bundle.graph, preprocess=bundle.preprocess, evalset=same, labels=labels)


def write_verdict(folder: Path, verdict: Verdict) -> None:
    write_text(folder / VERDICT, verdict.model_dump_json(indent=1) + "\n")


def _forget(folder: Path) -> None:
    """The raw samples are about to become another session's: what is stored answers for no key any more."""
    path = folder / SESSION / STATE
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(path, error) from error


def _remembered(folder: Path, key: str) -> list[Measurement] | None:
    try:
        state = json.loads((folder / SESSION / STATE).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(state, dict) or state.get("key") != key:
        return None
    return read_measurements(folder / MEASUREMENTS) if is_sealed(folder / MEASUREMENTS) else None
