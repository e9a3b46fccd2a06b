"""One recipe's student for several backends: the plan, the files that came of it, and copies of them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgekd.backends.catalogue import BACKENDS
from edgekd.backends.onnx.adapt import gathered
from edgekd.core.durable import replacing
from edgekd.core.errors import RecipeError
from edgekd.core.run_record import RunRecord, StepRecord
from edgekd.pipeline.plan import Plan, make_plan
from edgekd.pipeline.recipe import Recipe, load_recipe
from edgekd.stages.catalogue import STAGES

INSTALLED = "installed"


@dataclass(frozen=True)
class ExportedFile:
    """One artifact: the step that wrote it, its main file first, and what its runtime said of it on val."""

    step: str
    backend: str
    precision: str
    files: tuple[Path, ...]
    size_bytes: int
    agreement: float | None
    """Share of validation images that it answers as the model in torch does."""
    not_executed: str | None


def plan_of_exports(
    recipe: str, *, backends: Sequence[str], beside: Sequence[str], overrides: Sequence[str] = ()
) -> Plan:
    """The recipe's plan with its last export step widened; what it ships stays what it was.

    backends: names, or `installed` for all whose libraries are here; the recipe's own come first. beside:
    precisions (`fp32`, `fp16`) of the float student. Raises `RecipeError` and `UsageError`.
    """
    own = load_recipe(recipe, overrides=overrides)
    name, here = _last_export(own)
    wanted = _backends(recipe, name, backends, overrides)
    merged = [*here, *(one for one in wanted if one not in here)]
    widened = (f"{name}.backends=[{', '.join(merged)}]", f"{name}.beside=[{', '.join(beside)}]")
    return make_plan(load_recipe(recipe, overrides=[*overrides, *widened]))


def _last_export(recipe: Recipe) -> tuple[str, tuple[str, ...]]:
    graphs = [spec for spec in recipe.steps if STAGES.load(spec.stage).produces == "graph"]
    steps = [spec for spec in graphs if spec.config.runs_in()]
    if not steps:
        raise RecipeError(["nothing is exported; end the recipe with `- export: {}`"], where=str(recipe.file))
    return steps[-1].name, tuple(steps[-1].config.runs_in())


def _backends(recipe: str, step: str, names: Sequence[str], overrides: Sequence[str]) -> tuple[str, ...]:
    """As the step's own configuration reads them, so that a word and a wrong name mean the same here."""
    written = INSTALLED if list(names) == [INSTALLED] else f"[{', '.join(names)}]"
    widened = load_recipe(recipe, overrides=[*overrides, f"{step}.backends={written}"])
    return _last_export(widened)[1]


def only_exports(plan: Plan) -> Plan:
    """What it takes to make the shipped artifact and those beside it: no control, no probe."""
    ends = {row.graph_step for row in plan.rows if row.name == plan.final or row.runtime}
    needed, by_name = set(ends), {step.name: step for step in plan.steps}
    waiting = list(ends)
    while waiting:
        feeders = {name for names in by_name[waiting.pop()].inputs.values() for name in names} - needed
        needed |= feeders
        waiting += feeders
    return replace(plan, steps=tuple(step for step in plan.steps if step.name in needed))


def exported_files(record: RunRecord, folder: Path) -> list[ExportedFile]:
    """Every artifact of a run whose steps are done, the one that ships first."""
    rows = [row for row in record.rows if row.name == record.final or row.role == "alternative"]
    wanted = [row.graph_step for row in rows]
    steps = [step for step in record.steps if step.kind == "graph" and step.folder is not None]
    chosen = [step for step in steps if step.name in wanted] if wanted else steps
    return [_exported(step, folder) for step in chosen]


def _exported(step: StepRecord, folder: Path) -> ExportedFile:
    facts, home = step.facts, folder / str(step.folder)
    main = home / str(facts["file"])
    return ExportedFile(
        step.name,
        str(facts["backend"]),
        str(facts["precision"]),
        BACKENDS.load(str(facts["backend"])).files_of(main),
        int(facts["size_bytes"]),
        facts.get("val_agreement"),
        facts.get("not_executed"),
    )


def copy_out(exported: Sequence[ExportedFile], folder: Path) -> list[Path]:
    """Copies as `<step>.<suffix>`: files that belong together keep one stem. Raises `StoreError`."""
    made: list[Path] = []
    for one in exported:
        main, *beside = one.files
        if one.backend == "onnx" and beside:  # it names its weights, which get another name
            target = folder / f"{one.step}{main.suffix}"
            gathered(main, target)
            made += BACKENDS.load(one.backend).files_of(target)
            continue
        for path in one.files:
            target = folder / f"{one.step}{''.join(path.suffixes)}"
            with replacing(target) as temporary:
                shutil.copyfile(path, temporary)
            made.append(target)
    return made
