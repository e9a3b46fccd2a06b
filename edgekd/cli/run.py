"""`edgekd run`: everything a recipe says, from the teacher to the verdict."""

from __future__ import annotations

from typing import Annotated

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


def command(
    recipe: RecipeArgument,
    set_: SetOption = None,
    until: Annotated[str | None, typer.Option(help="Stop after this step of the plan.")] = None,
    max_time: Annotated[
        str | None,
        typer.Option("--max-time", help="End resumably after this long (`50m`, `2h`, `90s`); exit code 75."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Do every step again, even what is stored.")] = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = DEFAULT_THREADS,
    store: StoreOption = DEFAULT_STORE,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only the verdict.")] = False,
    json_: JsonOption = False,
) -> int:
    """Run a recipe: train, select, distill, quantize, export, measure, judge, report.

    Finished steps are taken from the store. Interrupted (Ctrl-C, kill, --max-time), the same command
    continues where it was. The exit code is the gate's verdict: 0 pass, 1 fail, 3 inconclusive.
    """
    import json

    from edgekd.cli.display import display, print_outcome
    from edgekd.pipeline.plan import make_plan
    from edgekd.pipeline.recipe import load_recipe
    from edgekd.pipeline.run import run
    from edgekd.pipeline.surroundings import Settings
    from edgekd.pipeline.validation import check_recipe
    from edgekd.report.render import render
    from edgekd.store.store import Store

    plan = make_plan(load_recipe(recipe, overrides=set_ or ()))
    check_recipe(plan)
    settings = Settings(
        device=device, threads=threads, fresh=fresh, until=until, max_seconds=parse_duration(max_time)
    )
    with display(quiet=quiet or json_) as listener:
        outcome = run(plan, Store(store), settings, [listener])
    if outcome.verdict is None:
        typer.echo(
            json.dumps({"run": str(outcome.folder), "verdict": None}) if json_ else str(outcome.folder)
        )
        return 0
    reports = render(outcome.folder, outcome.folder / "report")
    if json_:
        typer.echo(
            json.dumps(
                {
                    "run": str(outcome.folder),
                    "verdict": outcome.verdict.model_dump(mode="json"),
                    "reports": {name: str(path) for name, path in reports.items()},
                }
            )
        )
    else:
        print_outcome(outcome.folder)
        typer.echo(f"report: {reports['html']}")
    return outcome.exit_code


def parse_duration(text: str | None) -> float | None:
    """`50m` as seconds; None stays None. Raises `typer.BadParameter` for anything else."""
    if text is None:
        return None
    from edgekd.stages.training_settings import seconds

    try:
        return seconds(text)
    except ValueError:
        raise typer.BadParameter("write a number with s, m or h, as `50m`", param_hint="--max-time") from None
