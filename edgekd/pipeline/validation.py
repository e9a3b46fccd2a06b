"""What can be known of a recipe before any compute is spent, beyond names and types."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from edgekd.backends.catalogue import BACKENDS
from edgekd.core.classes import places
from edgekd.core.errors import EdgekdError, MissingDependencyError, RecipeError, problems_of
from edgekd.core.verdict import Limit
from edgekd.data.source import Outline
from edgekd.data.split import Dataset
from edgekd.pipeline.bundle import read_bundle
from edgekd.pipeline.gate import limits
from edgekd.pipeline.plan import Plan, known_inputs
from edgekd.pipeline.session import RELEASE, STUDENT
from edgekd.stages.catalogue import STAGES
from edgekd.stages.stage import KnownData, Stage

_PROBES = {"train": "torch"}
"""A package by which an extra is known to be installed."""


def check_recipe(plan: Plan) -> None:
    """Raise `RecipeError` with everything that cannot work; `MissingDependencyError` without the extra."""
    recipe = plan.recipe
    problems = []
    try:
        bounds = _limits(plan)
    except EdgekdError as error:
        problems.append(str(error))
        bounds = []
    problems += _against_problems(plan)
    problems += _file_problems(plan)
    problems += _release_problems(plan, recipe.source.outline())
    _check_extras(plan)
    problems += _step_problems(plan, KnownData(recipe.source, recipe.source.outline(), bounds))
    if problems:
        raise RecipeError(problems, where=str(recipe.file))


def check_against_data(plan: Plan, dataset: Dataset) -> None:
    """What `check_recipe` could not tell before the data were opened. Raises `RecipeError`."""
    if plan.recipe.source.outline() is not None:
        return
    outline = Outline.of(dataset)
    problems = [
        *_release_problems(plan, outline),
        *_step_problems(plan, KnownData(plan.recipe.source, outline, _limits(plan))),
    ]
    if problems:
        raise RecipeError(problems, where=str(plan.recipe.file))


def _limits(plan: Plan) -> list[Limit]:
    return limits(plan.recipe.gate, [target.name for target in plan.recipe.targets])


def _check_extras(plan: Plan) -> None:
    for step in plan.steps:
        stage: Stage = STAGES.load(step.stage)
        package = _PROBES.get(stage.requires or "")
        if package is not None and find_spec(package) is None:
            raise MissingDependencyError(package, extra=str(stage.requires), where=f"step `{step.name}`")
        for name in step.config.runs_in():
            BACKENDS.load(name).require()


def check_exporters(plan: Plan) -> None:
    """Import what exports, before compute is spent; raises `BrokenDependencyError`."""
    for name in dict.fromkeys(name for step in plan.steps for name in step.config.runs_in()):
        BACKENDS.load(name).load_exporter()


def _against_problems(plan: Plan) -> Iterator[str]:
    names = [row.name for row in plan.rows] + [STUDENT, RELEASE]
    for limit in _limits(plan):
        if limit.against is not None and limit.against not in names:
            legal = ", ".join(names)
            yield f"{limit.source}: `against: {limit.against}` is not a row of the waterfall; rows: {legal}"
        if limit.against == plan.final:
            yield f"{limit.source}: `against: {limit.against}` is the artifact itself"


def _file_problems(plan: Plan) -> Iterator[str]:
    """Files that are not there, and Python files that are not trusted."""
    for spec in plan.recipe.steps:
        for path in spec.config.files():
            if not path.is_file():
                yield f"{spec.path}: no such file: {path}"
            elif path.suffix == ".py" and not plan.recipe.trust_code:
                yield f"{spec.path}: `{path}` is a Python file; if you trust it, write `trust_code: true`"


def _release_problems(plan: Plan, outline: Outline | None) -> Iterator[str]:
    """A release that is no bundle, or that knows a class that the data lack."""
    if plan.recipe.gate.release is None:
        return
    try:
        labels = read_bundle(Path(plan.recipe.gate.release)).manifest.labels
        places(labels, labels if outline is None else outline.classes, whose="its")
    except EdgekdError as error:
        yield f"gate.release: {error}"


def _step_problems(plan: Plan, data: KnownData) -> Iterator[str]:
    for step in plan.steps:
        stage: Stage = STAGES.load(step.stage)
        if stage.check is None or step.control:
            continue
        try:
            stage.check(data, step.config, known_inputs(step, plan.steps))
        except EdgekdError as error:
            yield from (f"step `{step.name}`: {problem}" for problem in problems_of(error))
