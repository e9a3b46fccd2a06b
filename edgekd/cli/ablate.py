"""`edgekd ablate`: what each term of a recipe's distillation contributes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from edgekd.cli.options import (
    DEFAULT_STORE,
    DEFAULT_THREADS,
    DeviceOption,
    FreshOption,
    JsonOption,
    MaxTimeOption,
    QuietOption,
    RecipeArgument,
    SetOption,
    StoreOption,
    ThreadsOption,
    UntilOption,
    WaitOption,
    waiting_for,
)

if TYPE_CHECKING:
    from edgekd.pipeline.plan import PlannedStep


def command(
    recipe: RecipeArgument,
    set_: SetOption = None,
    plan_only: Annotated[
        bool, typer.Option("--plan", help="Only say what would be trained, and how long it would take.")
    ] = False,
    until: UntilOption = None,
    max_time: MaxTimeOption = None,
    wait: WaitOption = None,
    fresh: FreshOption = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = DEFAULT_THREADS,
    store: StoreOption = DEFAULT_STORE,
    quiet: QuietOption = False,
    json_: JsonOption = False,
) -> int:
    """Run a recipe, and its distillation once more without each term: what does each kind of knowledge buy?

    Every variant has the same start, batches and number of updates as the whole, and all other weights as
    they were. All are measured in one session, and the report says per term what it bought or cost: the
    difference in accuracy on the same images, with its interval. `distill` steps are taken apart; a student
    that `quantize` trains is not.

    Finished steps are taken from the store, those of an earlier `edgekd run` too; interrupted, the same
    command continues. The run is kept as RECIPE.ablation, at which `edgekd gate RECIPE` and `edgekd gate`
    never look. The exit code is that of `run`: the gate's verdict on the whole.
    """
    from edgekd.cli.plan import tell
    from edgekd.cli.run import carry_out, parse_duration
    from edgekd.pipeline.ablation import ablation_of, variants
    from edgekd.pipeline.recipe import load_recipe
    from edgekd.pipeline.surroundings import Settings
    from edgekd.store.store import Store

    plan = ablation_of(load_recipe(recipe, overrides=set_ or ()))
    settings = Settings(
        device=device, threads=threads, fresh=fresh, until=until, max_seconds=parse_duration(max_time)
    )
    if plan_only:
        tell(plan, Store(store), settings, why=False, json_=json_)
        return 0
    if not (quiet or json_):
        typer.echo(_announced(recipe, variants(plan)), err=True)
    with waiting_for(wait):
        return carry_out(plan, Store(store), settings, quiet=quiet, json_=json_)


def _announced(recipe: str, added: Sequence[PlannedStep]) -> str:
    names = ", ".join(step.name for step in added)
    count = f"{len(added)} more trainings" if len(added) > 1 else "one more training"
    return f"{count} for the ablation: {names} (how long: edgekd ablate {recipe} --plan)"
