"""`edgekd validate`: is this recipe right, before any compute is spent?"""

from __future__ import annotations

import typer

from edgekd.cli.options import JsonOption, RecipeArgument, SetOption


def command(recipe: RecipeArgument, set_: SetOption = None, json_: JsonOption = False) -> None:
    """Check a recipe wholly: names, types, inputs of every step, what each method needs.

    All problems are shown at once, with file and line. With `--json` the resolved recipe is printed.
    """
    import json

    from edgekd.pipeline.plan import make_plan
    from edgekd.pipeline.recipe import load_recipe
    from edgekd.pipeline.validation import check_recipe

    plan = make_plan(load_recipe(recipe, overrides=set_ or ()))
    check_recipe(plan)
    if json_:
        typer.echo(json.dumps(dict(plan.recipe.resolved), indent=2))
    else:
        steps = ", ".join(step.name for step in plan.steps if not step.control)
        typer.echo(f"{plan.recipe.file}: valid; steps: {steps}")
