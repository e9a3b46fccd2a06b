"""`edgekd run`: everything a recipe says, from the teacher to the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
)

if TYPE_CHECKING:
    from edgekd.pipeline.plan import Plan
    from edgekd.pipeline.run import Outcome
    from edgekd.pipeline.surroundings import Settings
    from edgekd.store.store import Store


def command(
    recipe: RecipeArgument,
    set_: SetOption = None,
    until: UntilOption = None,
    max_time: MaxTimeOption = None,
    fresh: FreshOption = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = DEFAULT_THREADS,
    store: StoreOption = DEFAULT_STORE,
    quiet: QuietOption = False,
    json_: JsonOption = False,
) -> int:
    """Run a recipe: train, select, distill, quantize, export, measure, judge, report.

    Finished steps are taken from the store. Interrupted (Ctrl-C, kill, --max-time), the same command
    continues where it was. The exit code is the gate's verdict: 0 pass, 1 fail, 3 inconclusive.
    """
    from edgekd.pipeline.plan import make_plan
    from edgekd.pipeline.recipe import load_recipe
    from edgekd.pipeline.surroundings import Settings
    from edgekd.pipeline.validation import check_recipe
    from edgekd.store.store import Store

    plan = make_plan(load_recipe(recipe, overrides=set_ or ()))
    check_recipe(plan)
    settings = Settings(
        device=device, threads=threads, fresh=fresh, until=until, max_seconds=parse_duration(max_time)
    )
    return carry_out(plan, Store(store), settings, quiet=quiet, json_=json_)


def carry_out(plan: Plan, store: Store, settings: Settings, *, quiet: bool, json_: bool) -> int:
    """Run a plan, write its reports, print how it ended, and return the exit code."""
    from edgekd.cli.display import display, print_outcome
    from edgekd.pipeline.run import run
    from edgekd.report.render import render

    with display(quiet=quiet or json_) as listener:
        outcome = run(plan, store, settings, [listener])
    reports = {} if outcome.verdict is None else render(outcome.folder, outcome.folder / "report")
    if json_:
        _print_json(outcome, reports)
    elif outcome.verdict is None:
        typer.echo(str(outcome.folder))
    else:
        print_outcome(outcome.folder)
        typer.echo(f"report: {reports['html']}")
    return outcome.exit_code


def _print_json(outcome: Outcome, reports: Mapping[str, Path]) -> None:
    import json

    told: dict[str, Any] = {"run": str(outcome.folder), "verdict": None}
    if outcome.verdict is not None:
        told["verdict"] = outcome.verdict.model_dump(mode="json")
        told["reports"] = {name: str(path) for name, path in reports.items()}
        ablations = json.loads(reports["json"].read_text())["ablations"]
        told |= {"ablations": ablations} if ablations else {}
    typer.echo(json.dumps(told))


def parse_duration(text: str | None, hint: str = "--max-time") -> float | None:
    """`50m` as seconds; None stays None. Raises `typer.BadParameter` for anything else."""
    if text is None:
        return None
    from edgekd.stages.training_settings import seconds

    try:
        return seconds(text)
    except ValueError:
        raise typer.BadParameter("write a number with s, m or h, as `50m`", param_hint=hint) from None
