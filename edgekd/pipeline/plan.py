"""A plan: the steps of a recipe in order, with inputs resolved, controls and probe exports added."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
    """What earlier steps may know of later ones: the precision of the shipped graph, and its quantizers."""
    shipped = next(row.graph_step for row in plan.rows if row.name == plan.final)
    profile = next(iter(BACKENDS.load(_backend_of(shipped, plan.steps)).profiles), DEFAULT_PROFILE)
    written = next(step.config.ships_in() for step in plan.steps if step.name == shipped)
    return {
        "precision": written or ("int8" if _is_quantized(shipped, plan.steps) else "fp32"),
        "profile": profile,
    }


def _is_quantized(name: str, steps: Sequence[PlannedStep]) -> bool:
    """Whether the model that comes out of a step was quantized on the way."""
    step = next(one for one in steps if one.name == name)
    return _stage(step).quantizes or any(_is_quantized(one, steps) for one in step.inputs.get("model", ()))


def _backend_of(graph_step: str, steps: Sequence[PlannedStep]) -> str:
    """Whose graph the step gives; of one that chooses among graphs: the first one's."""
    step = next(one for one in steps if one.name == graph_step)
    graphs = (name for names in step.inputs.values() for name in names if _is_graph(name, steps))
    return next(iter(step.config.runs_in()), None) or _backend_of(next(graphs), steps)


def _is_graph(name: str, steps: Sequence[PlannedStep]) -> bool:
    return any(step.name == name and _stage(step).produces == "graph" for step in steps)


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
        self.parts: list[tuple[PlannedStep, str, Part]] = []
        """What a step of the recipe makes beside its own artifact, with the name of that step."""
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
        if not self.problems:
            self.parts += [(self._part(step, part), step.name, part) for part in others]
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
        graphs = [step for step in self.main if _stage(step).produces == "graph"]
        exports = [step for step in graphs if step.config.runs_in()]
        if not exports and not self.problems:
            self.problems.append("steps: nothing is exported; end the recipe with `- export: {}`")
        if self.problems:
            raise RecipeError(self.problems, where=str(self.recipe.file))
        models = [step for step in (*self.main, *self.controls) if step.name in self.titles]
        found = [self._row(step, exports) for step in models]
        probes = [probe for _, probe in found if probe is not None]
        self.rows += [row for row, _ in found]
        self.rows += [self._alternative(made, part) for made, _, part in self.parts]
        steps = [*self._with_parts(), *self.controls, *probes]
        self._refuse_twice([step.name for step in steps])
        self._refuse_twice([row.name for row in self.rows])
        final = next(row.name for row in self.rows if row.graph_step == graphs[-1].name)
        rows = sorted(self.rows, key=lambda row: _order(row, self.main, self.controls))
        shipped = _backend_of(graphs[-1].name, steps)
        whole = (replace(step, config=step.config.shipping(shipped)) for step in steps)
        return Plan(self.recipe, tuple(whole), tuple(rows), final)

    def _with_parts(self) -> Iterator[PlannedStep]:
        """The steps of the recipe, each followed by what it makes beside its own artifact."""
        for step in self.main:
            yield step
            yield from (made for made, owner, _ in self.parts if owner == step.name)

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
        self, step: PlannedStep, exports: Sequence[PlannedStep]
    ) -> tuple[PlannedRow, PlannedStep | None]:
        row, title, control = self.titles[step.name]
        if _stage(step).produces == "graph":
            return PlannedRow(row, title, control, step.name, step.name, probe=False), None
        for export in reversed(exports):
            if export.inputs["model"] == (step.name,):
                return PlannedRow(row, title, control, step.name, export.name, probe=False), None
        name = f"probe-{step.name}"
        config = exports[-1].config.model_copy(update={"name": name})
        probe = PlannedStep(name, exports[-1].stage, config, {"model": (step.name,)}, control=True)
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
        if matching and wanted.every:
            return tuple(step.name for step in self._with_parts() if _stage(step).produces in wanted.kinds)
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
        earlier = {step.name: step for step in self._with_parts()}
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
