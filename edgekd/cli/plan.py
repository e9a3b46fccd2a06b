"""`edgekd plan`: what a run would do, and whether its gate can be decided."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from edgekd.cli.options import (
    DEFAULT_STORE,
    DEFAULT_THREADS,
    DeviceOption,
    JsonOption,
    RecipeArgument,
    SetOption,
    StoreOption,
    ThreadsOption,
)

if TYPE_CHECKING:
    from edgekd.pipeline.plan import Plan
    from edgekd.pipeline.surroundings import Settings
    from edgekd.store.store import Store


def command(
    recipe: RecipeArgument,
    set_: SetOption = None,
    why: Annotated[
        bool, typer.Option("--why", help="Say for every step that runs why it is not cached.")
    ] = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = DEFAULT_THREADS,
    store: StoreOption = DEFAULT_STORE,
    json_: JsonOption = False,
) -> None:
    """Show what runs and what is cached, the estimated time, and whether each limit is decidable.

    A limit is decidable when this much test data can settle it: an interval wider than the distance to the
    limit will end inconclusive, however good the student is.
    """
    from edgekd.pipeline.plan import make_plan
    from edgekd.pipeline.recipe import load_recipe
    from edgekd.pipeline.surroundings import Settings
    from edgekd.pipeline.validation import check_recipe
    from edgekd.store.store import Store

    plan = make_plan(load_recipe(recipe, overrides=set_ or ()))
    check_recipe(plan)
    tell(plan, Store(store), Settings(device=device, threads=threads), why=why, json_=json_)


def tell(plan: Plan, store: Store, settings: Settings, *, why: bool, json_: bool) -> None:
    """Print the forecast of a plan."""
    import json

    from edgekd.pipeline.forecast import forecast

    found = forecast(plan, store, settings)
    if json_:
        typer.echo(json.dumps(found.as_data(), indent=2))
        return
    for step in found.steps:
        control = " (control)" if step.control else ""
        estimate = f"about {step.seconds:.0f} s" if step.seconds is not None else "time unknown"
        typer.echo(
            f"{'cached ' if step.cached else 'run    '} {step.name}{control}"
            + ("" if step.cached else f"  {estimate}")
        )
        if why and not step.cached:
            for reason in step.why:
                typer.echo(f"          {reason}")
    typer.echo(f"measure  {len(plan.rows)} artifacts on {', '.join(t.name for t in plan.recipe.targets)}")
    typer.echo(found.total)
    for line in found.limits:
        typer.echo(line)
