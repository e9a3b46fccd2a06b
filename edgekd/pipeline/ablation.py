"""An ablation: a recipe's run with one more control for each term that its distillation can do without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgekd.core.errors import UsageError
from edgekd.pipeline.plan import Plan, PlannedStep, make_plan
from edgekd.pipeline.recipe import Recipe
from edgekd.pipeline.run_folder import ABLATION
from edgekd.pipeline.validation import check_recipe
from edgekd.stages.catalogue import STAGES


def ablation_of(recipe: Recipe) -> Plan:
    """The plan of the recipe's ablation, under a name of its own: no gate is to take it for the recipe's run.

    The recipe itself is checked first. Raises `RecipeError` and `MissingDependencyError` as `run` does, and
    `UsageError` where nothing can be left out.
    """
    check_recipe(make_plan(recipe))
    plan = make_plan(replace(recipe, name=recipe.name + ABLATION), ablate=True)
    if not variants(plan):
        raise UsageError(
            "the recipe distills nothing, so there is nothing to leave out",
            where=str(recipe.file),
            choices=[entry.name for entry in STAGES if STAGES.load(entry.name).ablations],
            fix="add a `distill` step with a method",
        )
    return plan


def variants(plan: Plan) -> Sequence[PlannedStep]:
    """The steps that an ablation adds, beside those of the recipe's run."""
    usual = {step.name for step in make_plan(plan.recipe).steps}
    added = [step for step in plan.steps if step.name not in usual]
    return [step for step in added if any(row.model_step == step.name for row in plan.rows)]
