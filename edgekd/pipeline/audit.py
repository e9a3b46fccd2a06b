"""Puts a foreign ONNX classifier through the measurements, the gate and the reports of our own, untrained."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.core.artifact import Artifact
from edgekd.core.digest import of_data, of_file
from edgekd.core.errors import StoppedError, TargetError, UsageError
from edgekd.core.events import Emit, EventLog, now
from edgekd.core.run_record import LOCKED_RECIPE, SESSION, Finding, RunRecord
from edgekd.core.verdict import Verdict
from edgekd.data.evaluation import IMAGES
from edgekd.measure.accuracy import Logits, read_array
from edgekd.measure.probes import device_facts
from edgekd.pipeline.audit_checks import (
    Answered,
    answer_findings,
    door_findings,
    graph_findings,
    kind_note,
)
from edgekd.pipeline.audit_data import data_findings, evaluation_set, read_evaluation, same_images, too_few
from edgekd.pipeline.audit_model import Subject, resolve
from edgekd.pipeline.audit_probes import Case, probe_findings
from edgekd.pipeline.audit_record import (
    GRAPH,
    graph_artifact,
    locked,
    provenance,
    row_of,
    run_name,
    sources_of,
    step_of,
)
from edgekd.pipeline.audit_spec import REFERENCE, AuditSpec, accepted
from edgekd.pipeline.audit_time import least_thorough, pace_of
from edgekd.pipeline.gate import limits
from edgekd.pipeline.history.record import Occasion
from edgekd.pipeline.integrity import LOCKED_DIGEST, SOURCES
from edgekd.pipeline.run_folder import RunFolder, read_record
from edgekd.pipeline.session import Order, Session, items_of, judge_final, measured, write_verdict
from edgekd.store.store import Store
from edgekd.targets.devices_file import DEVICES_FILE, read_targets, select_targets
from edgekd.targets.target import Target

MODEL = "model"
"""The row, and the step, of the model that is audited."""
DEFAULT_PROTOCOL = "quick"

Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Request:
    """What is asked for. `against` is another model with the specification that it is used by."""

    model: Path
    data: str
    spec: AuditSpec
    targets: tuple[str, ...] = ("local",)
    against: tuple[Path, AuditSpec] | None = None
    train_data: str | None = None
    max_seconds: float | None = None
    fresh: bool = False


@dataclass(frozen=True)
class Audited:
    """How it ended. `lost` names the targets that could not be measured on."""

    folder: Path
    verdict: Verdict
    record: RunRecord
    lost: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """A failed limit outweighs a lost target, which outweighs an open limit."""
        lost = self.lost and self.verdict.outcome != "fail"
        return TargetError.exit_code if lost else self.verdict.exit_code


def audit(request: Request, store: Store, listeners: Sequence[Emit] = ()) -> Audited:
    """Measure, check and judge one model. Interrupted at any point, the same call continues where it was.

    Raises `StoppedError` at `max_seconds`, `ModelError`, `DataError` and `UsageError` for what cannot be
    audited as it is, `TargetError` when no target can be measured on.
    """
    return _Audit(request, store, listeners).go()


class _Audit:
    def __init__(self, request: Request, store: Store, listeners: Sequence[Emit]) -> None:
        self.deadline = time.monotonic() + (request.max_seconds or float("inf"))
        self.request, self.store = request, store
        self.targets: list[Target] = select_targets(request.targets, read_targets(Path(DEVICES_FILE)))
        self.names = tuple(target.name for target in self.targets)
        _check_gate(request, self.names)
        self.subjects = _subjects(request)
        self.model = self.subjects[-1]
        self.evaluation = read_evaluation(request.data, self.model)
        name = run_name(request.model)
        self.folder = RunFolder(store.root / "runs" / name / self._run_id())
        self.protocol = self._known_protocol()
        self.log: EventLog = self.folder.event_log(listeners)
        self.record = RunRecord(
            recipe=name,
            run_id=self.folder.path.name,
            started_at=now(),
            description=f"audit of {request.model.name}",
            command=["edgekd", *sys.argv[1:]],
            labels=self.evaluation.classes,
            targets=self.names,
            final=MODEL,
        )

    def go(self) -> Audited:
        self.log({"event": "run", "recipe": self.record.recipe, "num_steps": len(self.subjects)})
        graphs = {subject.name: self._graph(subject) for subject in self.subjects}
        evalsets = {subject.name: self._evalset(subject) for subject in self.subjects}
        facts = {target.name: device_facts(target) for target in self.targets}
        self._describe(graphs, evalsets, facts)
        images = np.load(evalsets[MODEL].path(IMAGES), mmap_mode="r", allow_pickle=False)
        self._tell_notes(graphs)
        self._find(graph_findings(self.model.anatomy))
        self._find(door_findings(self.request.spec.gate, self.names, [s.door for s in self.subjects]))
        self._find(data_findings(self.evaluation, images, self.model.fitting, self.request.train_data))
        session = self._measure(graphs, facts, len(images))
        self._find(self._model_findings(graphs[MODEL], session, images))
        return self._finish(graphs[MODEL], session)

    # --- before measuring -----------------------------------------------------------------------------------

    def _run_id(self) -> str:
        """The same model, data, specification and targets continue the same audit."""
        asked = {
            "models": [[s.name, s.sha256, s.spec.model_dump(mode="json")] for s in self.subjects],
            "data": self.evaluation.digest,
            "train": self.request.train_data,
            "targets": [target.facts() for target in self.targets],
        }
        return of_data(asked)[:12]

    def _known_protocol(self) -> str | None:
        """As specified, or as an interrupted audit with `--time` has chosen; None is still to be chosen."""
        if self.request.spec.protocol is not None or self.request.max_seconds is None:
            return self.request.spec.protocol or DEFAULT_PROTOCOL
        try:
            before = read_record(self.folder.path)
        except UsageError:
            return None
        chosen = before.provenance.get("settings", {}).get("protocol")
        return str(chosen) if chosen and before.finished_at is None else None

    def _graph(self, subject: Subject) -> Artifact:
        self.log(
            {"event": "step", "step": subject.name, "text": f"{subject.path.name} ({subject.door.input})"}
        )
        return graph_artifact(subject, subject.spec.labels or self.evaluation.own, self.store)

    def _evalset(self, subject: Subject) -> Artifact:
        evaluation = self.evaluation
        if subject is not self.model:
            evaluation = same_images(self.request.data, subject, evaluation)
        return evaluation_set(evaluation, subject.fitting, self.store)

    def _describe(
        self,
        graphs: Mapping[str, Artifact],
        evalsets: Mapping[str, Artifact],
        facts: Mapping[str, Mapping[str, Any]],
    ) -> None:
        steps, rows = [], []
        for number, subject in enumerate(self.subjects, 1):
            graph = graphs[subject.name]
            self.folder.link_step(number, subject.name, graph.folder)
            link = self.folder.link_evalset(evalsets[subject.name].folder)
            steps.append(step_of(number, subject.name, graph))
            rows.append(row_of(subject, graph, link.relative_to(self.folder.path).as_posix()))
        request = self.request
        told = provenance(
            request.data, request.train_data, self.protocol, self.evaluation, self.subjects, facts
        )
        told[SOURCES] = sources_of(self.subjects)
        self._note(provenance=told, steps=tuple(steps), rows=tuple(rows))

    def _tell_notes(self, graphs: Mapping[str, Artifact]) -> None:
        notes = list(self.model.notes)
        for subject in self.subjects:
            notes += [f"{subject.path.name}: {change}" for change in graphs[subject.name].facts["changes"]]
        if self.model.external and self.request.spec.sha256:
            notes.append("its weights stand in files of their own, which the sha256 given says nothing of")
        if self.model.fitting.bgr:
            notes.append("the evaluation set is in the model's order, blue first; pictures show it so")
        notes += too_few(self.request.spec.gate, self.names, len(self.evaluation.split))
        for text in notes:
            self.log({"event": "note", "text": text})

    # --- measuring ------------------------------------------------------------------------------------------

    def _measure(
        self, graphs: Mapping[str, Artifact], facts: Mapping[str, Mapping[str, Any]], num_images: int
    ) -> Session:
        protocol = self.protocol or self._choose_protocol(graphs, num_images)
        text = locked(self.record.recipe, self.request.data, self.names, protocol, self.request.spec)
        self.folder.write_recipe(text)
        settings = {**self.record.provenance["settings"], "protocol": protocol}
        self._note(provenance={**self.record.provenance, "settings": settings})
        order = Order(
            items=items_of(self.record.rows, self.folder.path, graphs, self.request.spec.gate),
            targets=self.targets,
            protocol=protocol,
            labels=self.evaluation.classes,
            seed=0,
            device_facts=facts,
            occasion=Occasion.of_run(self.record, "audit"),
        )
        return measured(order, self.folder.path, self.store, self._watched, fresh=self.request.fresh)

    def _watched(self, event: Mapping[str, Any]) -> None:
        """Every process on a target announces itself before it starts: there the time can be up."""
        if event["event"] == "progress" and time.monotonic() > self.deadline:
            raise StoppedError(
                "stopped at --time; nothing is lost", fix="run the same command again to continue"
            )
        self.log(event)

    def _choose_protocol(self, graphs: Mapping[str, Artifact], num_images: int) -> str:
        """The most thorough profile that fits into `--time` on the slowest target."""
        left = (self.deadline - time.monotonic()) / len(self.targets)
        paces = [
            [self._pace(graphs, subject, target) for subject in self.subjects] for target in self.targets
        ]
        name, remark = least_thorough(left, paces, num_images)
        self.log({"event": "note", "text": remark or f"the profile `{name}` fits the time"})
        return name

    def _pace(self, graphs: Mapping[str, Artifact], subject: Subject, target: Target) -> Any:
        graph = graphs[subject.name].path(GRAPH)
        return pace_of(graph, (*subject.fitting.size, subject.fitting.channels), subject.preprocess, target)

    # --- after measuring ------------------------------------------------------------------------------------

    def _model_findings(self, graph: Artifact, session: Session, images: Images) -> Iterable[Finding]:
        for name in dict.fromkeys(m.target for m in session.measurements):
            outputs = read_array(self.folder.path / SESSION / name / f"{MODEL}.logits.npy")
            answered = Answered(name, outputs, self.evaluation.split.labels, self.evaluation.own)
            yield from answer_findings(answered)
            if (text := kind_note(answered, self.model.spec.output.kind)) is not None:
                self.log({"event": "note", "text": text})
            yield from self._probed(graph, name, outputs, images)

    def _probed(self, graph: Artifact, target: str, outputs: Logits, images: Images) -> list[Finding]:
        from edgekd.backends.onnx.runtime import ArtifactError

        case = Case(
            graph=graph.path(GRAPH),
            preprocess=self.model.preprocess,
            fitting=self.model.fitting,
            split=self.evaluation.split,
            images=images,
            answers=outputs,
            num_own=len(self.evaluation.own),
            precision=self.model.anatomy.precision,
            random_operators=self.model.anatomy.random_operators,
            raw_pixels=self.model.raw_pixels,
            target=target,
        )
        try:
            return list(probe_findings(case))
        except ArtifactError as error:
            self.log({"event": "note", "text": f"sanity checks on this machine were left out: {error}"})
            return []

    def _find(self, findings: Iterable[Finding]) -> None:
        """Keep findings in the record and tell each."""
        found = accepted(list(findings), self.request.spec)
        self._note(findings=(*self.record.findings, *found))
        for one in found:
            word = "accepted" if one.accepted else one.outcome
            self.log({"event": "note", "text": f"{one.name} ({word}): {one.text}"})

    def _finish(self, graph: Artifact, session: Session) -> Audited:
        self._note(
            not_measured=tuple(session.not_measured),
            provenance={
                **self.record.provenance,
                "session_key": session.key,
                LOCKED_DIGEST: of_file(self.folder.path / LOCKED_RECIPE),
            },
            finished_at=now(),
        )
        verdict = judge_final(self.request.spec.gate, session.measurements, self.record, graph)
        write_verdict(self.folder.path, verdict)
        self.log({"event": "verdict", "outcome": verdict.outcome})
        reached = {measurement.target for measurement in session.measurements}
        lost = tuple(name for name in self.names if name not in reached)
        return Audited(self.folder.path, verdict, self.record, lost)

    def _note(self, **changes: Any) -> None:
        self.record = self.record.model_copy(update=changes)
        self.folder.write_record(self.record)


def _check_gate(request: Request, targets: Sequence[str]) -> None:
    """Raises `UsageError` for limits against what is not there."""
    for limit in limits(request.spec.gate, targets):
        if limit.against == REFERENCE and request.against is None:
            raise UsageError(f"{limit.source}: there is nothing to compare with", fix="--against OTHER.onnx")
        if limit.against not in (None, REFERENCE, "release"):
            raise UsageError(
                f"{limit.source}: an audit has no {limit.against}", choices=(REFERENCE, "release")
            )


def _subjects(request: Request) -> tuple[Subject, ...]:
    """The reference, where there is one, and the audited model behind it."""
    model = resolve(MODEL, request.model, request.spec)
    if request.against is None:
        return (model,)
    path, spec = request.against
    return (resolve(REFERENCE, path, spec), model)
