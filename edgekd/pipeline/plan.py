"""A plan: the steps of a recipe in order, with inputs resolved, controls and probe exports added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekd.backends.catalogue import BACKENDS
from edgekd.backends.profile import DEFAULT_PROFILE
from edgekd.core.errors import RecipeError, UsageError
from edgekd.pipeline.recipe import Recipe, StepSpec
from edgekd.stages.catalogue import STAGES
from edgekd.stages.stage import Control, Input, KnownStep, Part, Stage, StageConfig


@dataclass(frozen=True)
class PlannedStep:
    """One step to run. `inputs` maps an input's name to the names of the steps that feed it."""

    name: str
    stage: str
    config: StageConfig
    inputs: Mapping[str, tuple[str, ...]]
    control: bool = False


@dataclass(frozen=True)
class PlannedRow:
    """One subject of the final session: a model and the graph it is measured through."""

    name: str
    title: str
    control: bool
    model_step: str
    graph_step: str
    probe: bool
    runtime: str = ""
    """Of a graph beside the one that ships: what the same model runs in there."""


@dataclass(frozen=True)
class Plan:
    """Everything a run does. `final` names the row that ships and is judged."""

    recipe: Recipe
    steps: tuple[PlannedStep, ...]
    rows: tuple[PlannedRow, ...]
    final: str

    def runtimes(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The backends without which there is nothing to ship or to time, and those only of rows beside."""
        beside = {row.graph_step for row in self.rows if row.runtime}
        needed = {name for step in self.steps if step.name not in beside for name in step.config.runs_in()}
        further = {name for step in self.steps for name in step.config.runs_in()} - needed
        return tuple(sorted(needed)), tuple(sorted(further))

    def until(self, name: str) -> Plan:
        """The plan up to a step; raises `RecipeError` with the names for an unknown one."""
        names = [step.name for step in self.steps]
        if name not in names:
            raise RecipeError([f"`{name}` is not a step of the plan; steps: {', '.join(names)}"])
        return replace(self, steps=self.steps[: names.index(name) + 1])


def make_plan(recipe: Recipe, *, ablate: bool = False) -> Plan:
    """Resolve inputs, insert required stages, add controls and probe exports. Raises `RecipeError`.

    ablate: also a control without each part that a step can do without (`Stage.ablations`).
    """
    builder = _Builder(recipe, ablate)
    for spec in recipe.steps:
        builder.add(spec)
    return builder.finish()


def plans_of(plan: Plan) -> dict[str, Any]:
    """What earlier steps may know of later ones: whether the shipped graph will be quantized, and how."""
    quantizes = any(_stage(step).quantizes and not step.control for step in plan.steps)
    shipped = next(row.graph_step for row in plan.rows if row.name == plan.final)
    (backend, *_) = next(step.config.runs_in() for step in plan.steps if step.name == shipped)
    profile = next(iter(BACKENDS.load(backend).profiles), DEFAULT_PROFILE)
    return {"precision": "int8" if quantizes else "fp32", "profile": profile}


def known_inputs(step: PlannedStep, steps: Sequence[PlannedStep]) -> dict[str, tuple[KnownStep, ...]]:
    """By input the steps that feed `step`, each with those that feed it in turn."""
    by_name = {other.name: other for other in steps}
    return {
        name: tuple(
            KnownStep(feeder.stage, feeder.config, known_inputs(feeder, steps))
            for feeder in map(by_name.__getitem__, feeders)
        )
        for name, feeders in step.inputs.items()
    }


class _Builder:
    def __init__(self, recipe: Recipe, ablate: bool) -> None:
        self.recipe = recipe
        self.ablate = ablate
        self.main: list[PlannedStep] = []
        self.controls: list[PlannedStep] = []
        self.parts: list[tuple[PlannedStep, Part]] = []
        """A step of the recipe, and what it makes beside its own artifact."""
        self.rows: list[PlannedRow] = []
        self.problems: list[str] = []
        self.titles: dict[str, tuple[str, str, bool]] = {}

    def add(self, spec: StepSpec) -> None:
        stage: Stage = STAGES.load(spec.stage)
        for required, config in stage.before(spec.config):
            if not any(step.stage == required for step in self.main):
                self.add(StepSpec(required, required, config, spec.path))
        whole, *others = stage.parts(spec.config)
        config = spec.config.model_copy(update=whole.changes)
        step = PlannedStep(spec.name, spec.stage, config, self._inputs(stage, spec))
        self.main.append(step)
        self.parts += [(step, part) for part in others]
        if stage.row is not None:
            row = stage.row if spec.name == spec.stage else spec.name
            self.titles[step.name] = (row, stage.title, False)
        self._add_controls(stage, step)

    def _add_controls(self, stage: Stage, step: PlannedStep) -> None:
        # The step's own controls first: what `against: student` finds must not depend on `ablate`.
        for control in (*stage.controls(step.config), *self._ablations(stage, step)):
            name = f"{step.name}-{control.suffix}"
            row = control.row if step.name == step.stage else f"{step.name}-{control.row}"
            config = step.config.model_copy(update={**control.changes, "name": name})
            inputs = {**step.inputs, "pace": (step.name,)}
            self.controls.append(PlannedStep(name, step.stage, config, inputs, control=True))
            self.titles[name] = (row, control.title, True)

    def _ablations(self, stage: Stage, step: PlannedStep) -> Sequence[Control]:
        if not self.ablate or stage.ablations is None or self.problems:
            return ()
        try:
            return stage.ablations(step.config, known_inputs(step, self.main))
        except UsageError as error:
            self.problems.append(f"step `{step.name}`: {error}")
            return ()

    def finish(self) -> Plan:
        exports = [step for step in self.main if _stage(step).produces == "graph"]
        if not exports and not self.problems:
            self.problems.append("steps: nothing is exported; end the recipe with `- export: {}`")
        if self.problems:
            raise RecipeError(self.problems, where=str(self.recipe.file))
        final_export = exports[-1]
        steps = [*self.main, *self.controls]
        parts = [self._part(step, part) for step, part in self.parts]
        probes = [self._row(step, final_export, exports) for step in steps if step.name in self.titles]
        for row, probe in probes:
            self.rows.append(row)
            if probe is not None:
                steps.append(probe)
        self.rows += [
            self._alternative(made, part) for made, (_, part) in zip(parts, self.parts, strict=True)
        ]
        steps = [*self.main, *parts, *steps[len(self.main) :]]
        self._refuse_twice([step.name for step in steps])
        self._refuse_twice([row.name for row in self.rows])
        (final_model,) = final_export.inputs["model"]
        final = next(row.name for row in self.rows if row.model_step == final_model)
        rows = sorted(self.rows, key=lambda row: _order(row, self.main, self.controls))
        return Plan(self.recipe, tuple(steps), tuple(rows), final)

    def _part(self, step: PlannedStep, part: Part) -> PlannedStep:
        name = f"{step.name}-{part.suffix}"
        config = step.config.model_copy(update={**part.changes, "name": name})
        inputs = {**step.inputs, "model": (self._float_model(step),)} if part.of_float else step.inputs
        return replace(step, name=name, config=config, inputs=inputs)

    def _float_model(self, step: PlannedStep) -> str:
        by_name = {one.name: one for one in self.main}
        (name,) = step.inputs["model"]
        while _stage(by_name[name]).quantizes:
            (name,) = by_name[name].inputs["model"]
        return name

    def _alternative(self, made: PlannedStep, part: Part) -> PlannedRow:
        """The row of the part's model once more, through the graph that the part is."""
        row = next(row for row in self.rows if (row.model_step,) == made.inputs["model"])
        name = f"{row.name}-{part.suffix}"
        return replace(row, name=name, graph_step=made.name, runtime=part.title, probe=False)

    def _refuse_twice(self, names: Sequence[str]) -> None:
        """A step that is called like another's control or probe would take its place."""
        for name in sorted({name for name in names if names.count(name) > 1}):
            text = f"steps: `{name}` is also the name of a control or probe; give the step another `name:`"
            raise RecipeError([text], where=str(self.recipe.file))

    def _row(
        self, step: PlannedStep, final_export: PlannedStep, exports: Sequence[PlannedStep]
    ) -> tuple[PlannedRow, PlannedStep | None]:
        row, title, control = self.titles[step.name]
        for export in exports:
            if export.inputs["model"] == (step.name,):
                return PlannedRow(row, title, control, step.name, export.name, probe=False), None
        probe = PlannedStep(
            f"probe-{step.name}",
            final_export.stage,
            final_export.config.model_copy(update={"name": f"probe-{step.name}"}),
            {"model": (step.name,)},
            control=True,
        )
        return PlannedRow(row, title, control, step.name, probe.name, probe=True), probe

    def _inputs(self, stage: Stage, spec: StepSpec) -> dict[str, tuple[str, ...]]:
        found = {}
        for wanted in stage.inputs:
            steps = self._input(wanted, spec)
            if steps:
                found[wanted.name] = steps
        return found

    def _input(self, wanted: Input, spec: StepSpec) -> tuple[str, ...]:
        named = getattr(spec.config, wanted.name, None)
        if isinstance(named, str) and Path(named) in spec.config.files():
            return ()
        if named is not None:
            return self._named(wanted, spec, [named] if isinstance(named, str) else list(named))
        matching = [step.name for step in self.main if _stage(step).produces in wanted.kinds]
        if matching:
            return (matching[0] if wanted.first else matching[-1],)
        if not wanted.optional:
            makers = [e.name for e in STAGES if STAGES.load(e.name).produces in wanted.kinds]
            self.problems.append(
                f"{spec.path}: needs `{wanted.name}`, but no earlier step makes a "
                f"{' or '.join(wanted.kinds)}; stages that do: {', '.join(makers)}"
            )
        return ()

    def _named(self, wanted: Input, spec: StepSpec, names: list[str]) -> tuple[str, ...]:
        earlier = {step.name: step for step in self.main}
        for name in names:
            if name not in earlier:
                self.problems.append(
                    f"{spec.path}.{wanted.name}: `{name}` is not an earlier step; "
                    f"choices: {', '.join(earlier)}"
                )
            elif _stage(earlier[name]).produces not in wanted.kinds:
                self.problems.append(
                    f"{spec.path}.{wanted.name}: `{name}` makes a {_stage(earlier[name]).produces}, "
                    f"not a {' or '.join(wanted.kinds)}"
                )
        return tuple(names)


def _stage(step: PlannedStep) -> Stage:
    return STAGES.load(step.stage)


def _order(row: PlannedRow, main: Sequence[PlannedStep], controls: Sequence[PlannedStep]) -> tuple[int, int]:
    """Waterfall order: a control stands just before the step it is compared with."""
    names = [step.name for step in main]
    if row.model_step in names:
        return names.index(row.model_step), 1
    owner = max((n for n in names if row.model_step.startswith(f"{n}-")), key=len)
    return names.index(owner), 0
