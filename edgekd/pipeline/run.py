"""A run: do what a plan says that is not done yet, measure what came of it, and judge it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgekd.core.artifact import Artifact
from edgekd.core.digest import of_data, of_file
from edgekd.core.errors import StoppedError, TargetError
from edgekd.core.events import Emit, EventLog, now
from edgekd.core.preprocess import Preprocess
from edgekd.core.run_record import LOCKED_RECIPE, Row, RunRecord, StepRecord
from edgekd.core.verdict import Verdict
from edgekd.pipeline.integrity import LOCKED_DIGEST
from edgekd.pipeline.keys import ingredients, key_of
from edgekd.pipeline.plan import Plan, PlannedRow, PlannedStep, plans_of
from edgekd.pipeline.reach import absent_runtimes
from edgekd.pipeline.run_folder import RunFolder
from edgekd.pipeline.session import judge_run, measure_run
from edgekd.pipeline.surroundings import Settings, Surroundings, look_around, provenance
from edgekd.pipeline.validation import check_against_data, check_exporters
from edgekd.stages.catalogue import STAGES
from edgekd.stages.context import StageContext
from edgekd.stages.stage import Product, Stage
from edgekd.store.store import Store


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `verdict` is None when it was asked to stop before the gate.

    `lost` names the targets that could not be measured on.
    """

    folder: Path
    verdict: Verdict | None
    record: RunRecord
    lost: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """A failed limit outweighs a lost target, which outweighs an open limit."""
        if self.verdict is None:
            return 0
        return (
            TargetError.exit_code if self.lost and self.verdict.outcome != "fail" else self.verdict.exit_code
        )


def run(plan: Plan, store: Store, settings: Settings, listeners: Sequence[Emit] = ()) -> Outcome:
    """Run a plan to its verdict. Interrupted at any point, the same call continues where it was.

    Raises `StoppedError` at `max_seconds`; whatever the stages raise leaves their work in the store.
    """
    return _Run(plan, store, settings, listeners).go()


_BASIS = ("code", "libraries", "plugins", "threads", "device", "dtype")
"""Ingredients of a step's key that any result of the step depends on, whatever its settings and inputs."""


class _Run:
    def __init__(self, plan: Plan, store: Store, settings: Settings, listeners: Sequence[Emit]) -> None:
        self.deadline = time.monotonic() + (settings.max_seconds or float("inf"))
        self.whole = plan
        self.plan = plan.until(settings.until) if settings.until and not settings.elsewhere else plan
        self.store = store
        self.settings = settings
        self.folder = RunFolder(store.root / "runs" / plan.recipe.name / _run_id(plan, settings))
        self.folder.write_recipe(plan.recipe.locked())
        self.log: EventLog = self.folder.event_log(listeners)
        self.artifacts: dict[str, Artifact] = {}
        self.record = RunRecord(
            recipe=plan.recipe.name,
            run_id=self.folder.path.name,
            started_at=now(),
            description=plan.recipe.description,
            command=["edgekd", *sys.argv[1:]],
            seed=plan.recipe.seed,
            targets=tuple(target.name for target in plan.recipe.targets),
            final=plan.final,
        )

    def go(self) -> Outcome:
        self.log({"event": "run", "recipe": self.record.recipe, "num_steps": len(self.plan.steps)})
        around = look_around(self.whole, self.store, self.settings)
        check_against_data(self.whole, around.data.dataset)
        self._note(
            provenance=provenance(self.whole, around, self.settings),
            labels=around.data.dataset.classes,
            steps=tuple(_pending(step) for step in self.plan.steps),
        )
        for name, why in around.unreached.items():
            text = f"`{name}` is out of reach from where the artifacts were made: {why}"
            self.log({"event": "note", "text": text})
        for text in absent_runtimes(around.target_facts):
            self.log({"event": "note", "text": text})
        for number, step in enumerate(self.plan.steps, 1):
            self._check_time()
            self._do(number, step, around)
        if self.settings.elsewhere:
            self._note(rows=self._rows(around))
            return self._stopped("everything is made; it is measured elsewhere")
        if self.plan is not self.whole:
            return self._stopped(f"stopped after `{self.settings.until}` as asked")
        return self._finish(around)

    def _stopped(self, text: str) -> Outcome:
        self.log({"event": "end", "text": text})
        return Outcome(self.folder.path, None, self.record)

    def _finish(self, around: Surroundings) -> Outcome:
        self._check_time()
        self._note(rows=self._rows(around))
        session = measure_run(
            self.record,
            self.folder.path,
            self.artifacts,
            self.whole,
            self.store,
            around,
            self.settings,
            self.log,
        )
        self._note(
            not_measured=tuple(session.not_measured),
            provenance={
                **self.record.provenance,
                "session_key": session.key,
                LOCKED_DIGEST: of_file(self.folder.path / LOCKED_RECIPE),
            },
            finished_at=now(),
        )
        verdict = judge_run(self.whole, self.record, self.folder.path, session.measurements, self.artifacts)
        self.log({"event": "verdict", "outcome": verdict.outcome})
        found = {measurement.target for measurement in session.measurements}
        lost = tuple(name for name in self.record.targets if name not in found)
        return Outcome(self.folder.path, verdict, self.record, lost)

    def _rows(self, around: Surroundings) -> tuple[Row, ...]:
        rows = []
        for planned in self.whole.rows:
            graph = self.artifacts[planned.graph_step]
            rows.append(
                Row(
                    name=planned.name,
                    title=self._title(planned),
                    role=_role(planned),
                    model_step=planned.model_step,
                    graph_step=planned.graph_step,
                    precision=graph.facts["precision"],
                    evalset=self._evalset(graph, around),
                    probe=planned.probe,
                )
            )
        return tuple(rows)

    def _title(self, planned: PlannedRow) -> str:
        title = str(self.artifacts[planned.model_step].facts.get("row_title", planned.title))
        return f"{title}, {planned.runtime}" if planned.runtime else title

    def _evalset(self, graph: Artifact, around: Surroundings) -> str:
        """Where, below the run's folder, the graph's test images are."""
        artifact = around.data.evalset(Preprocess.model_validate(graph.facts["preprocess"]), "test")
        return self.folder.link_evalset(artifact.folder).relative_to(self.folder.path).as_posix()

    def _do(self, number: int, step: PlannedStep, around: Surroundings) -> None:
        inputs = {
            name: tuple(self.artifacts[feeder] for feeder in feeders) for name, feeders in step.inputs.items()
        }
        parts = ingredients(step, inputs, around.for_keys)
        key = key_of(parts)
        self.log({"event": "step", "step": step.name, "number": number, "of": len(self.plan.steps)})
        started = time.monotonic()
        artifact, status = self._made(step, key, parts, inputs, around)
        seconds = time.monotonic() - started
        self.artifacts[step.name] = artifact
        self.folder.link_step(number, step.name, artifact.folder)
        self._tell_history(step, artifact)
        self._note_step(
            StepRecord(
                name=step.name,
                stage=step.stage,
                key=key,
                inputs={name: ",".join(feeders) for name, feeders in step.inputs.items()},
                control=step.control,
                status="cached" if status == "cached" else "ran",
                kind=artifact.kind,
                digest=artifact.digest,
                folder=str(Path("steps") / f"{number:02d}-{step.name}"),
                seconds=seconds,
                facts={k: v for k, v in artifact.facts.items() if k != "history"},
                measured=(self.store.key_record(key) or {}).get("measured", {}),
            )
        )
        done = {"event": "step_done", "step": step.name, "status": status, "seconds": seconds}
        self.log({**done, "facts": _headline(artifact)})

    def _made(
        self,
        step: PlannedStep,
        key: str,
        parts: Mapping[str, Any],
        inputs: Mapping[str, Sequence[Artifact]],
        around: Surroundings,
    ) -> tuple[Artifact, str]:
        if self.settings.fresh:
            self.store.forget(key)
        elif (found := self.store.lookup(key)) is not None:
            return found, "cached"
        lock = self.store.lock(key)
        if not lock.try_acquire():
            self.log({"event": "note", "step": step.name, "text": "another run is making this; waiting"})
            self._wait(lock.try_acquire)
        try:
            found = self.store.lookup(key)
            if found is not None:
                return found, "cached"
            return self._execute(step, key, parts, inputs, around), "ran"
        finally:
            lock.release()

    def _execute(
        self,
        step: PlannedStep,
        key: str,
        parts: Mapping[str, Any],
        inputs: Mapping[str, Sequence[Artifact]],
        around: Surroundings,
    ) -> Artifact:
        check_exporters(self.plan)
        stage: Stage = STAGES.load(step.stage)
        folder = self.store.work_folder(key)
        context = StageContext(
            folder=folder,
            seed=self.whole.recipe.seed,
            data=around.data,
            targets=self.whole.recipe.targets,
            limits=around.limits,
            journal=self.store.journal(key),
            emit=_without_epochs(self.log.bound(step=step.name)),
            should_stop=lambda: time.monotonic() > self.deadline,
            device=self.settings.device,
            threads=self.settings.threads,
            trust_code=self.whole.recipe.trust_code,
            plans=plans_of(self.whole),
            target_facts=around.target_facts,
            unreached=around.unreached,
            basis={name: parts[name] for name in _BASIS},
        )
        product: Product = stage.run(context, step.config, inputs)
        artifact = self.store.commit(
            key,
            kind=product.kind,
            facts=product.facts,
            folder=folder,
            files=product.files,
            ingredients=parts,
            measured=product.measured,
        )
        self.store.discard_work(key)
        return artifact

    def _tell_history(self, step: PlannedStep, artifact: Artifact) -> None:
        """The training curve, told from the artifact so that a cached step shows it as well."""
        for epoch in artifact.facts.get("history", ()):
            self.log({"event": "epoch", "step": step.name, **epoch})

    def _wait(self, ready: Callable[[], bool]) -> None:
        while not ready():
            self._check_time()
            time.sleep(0.2)

    def _check_time(self) -> None:
        if time.monotonic() > self.deadline:
            raise StoppedError(
                "stopped at --max-time; nothing is lost",
                fix="run the same command again to continue",
            )

    def _note(self, **changes: Any) -> None:
        self.record = self.record.model_copy(update=changes)
        self.folder.write_record(self.record)

    def _note_step(self, done: StepRecord) -> None:
        self._note(steps=tuple(done if s.name == done.name else s for s in self.record.steps))


def _without_epochs(emit: Emit) -> Emit:
    """Epochs are told once, from the artifact; while training they are only shown."""

    def show(event: Mapping[str, Any]) -> None:
        if event["event"] == "epoch":
            emit({**event, "event": "progress", "epoch_end": True})
        else:
            emit(event)

    return show


def _role(row: PlannedRow) -> Literal["stage", "control", "alternative"]:
    return "alternative" if row.runtime else "control" if row.control else "stage"


def _pending(step: PlannedStep) -> StepRecord:
    return StepRecord(name=step.name, stage=step.stage, key="", control=step.control)


def _run_id(plan: Plan, settings: Settings) -> str:
    """The same recipe and settings continue the same run."""
    return of_data({"recipe": dict(plan.recipe.resolved), "device": settings.device})[:12]


def _headline(artifact: Artifact) -> dict[str, Any]:
    """The few facts worth a line on a terminal."""
    names = ("val_accuracy", "num_parameters", "network", "precision", "size_bytes", "summary")
    return {name: artifact.facts[name] for name in names if name in artifact.facts}
