"""`edgekd run`: everything a recipe says, from the teacher to the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    from edgekd.pipeline.plan import Plan
    from edgekd.pipeline.portable.folder import PortableRun
    from edgekd.pipeline.run import Outcome
    from edgekd.pipeline.surroundings import Settings
    from edgekd.store.store import Store


def command(
    recipe: RecipeArgument,
    set_: SetOption = None,
    until: UntilOption = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT",
            help="With `--until export`: make the controls as well, and put all that is to be measured into "
            "the folder OUT. Other machines, without torch, measure and judge it: `edgekd measure OUT` with "
            "`--target NAME`, then `edgekd gate OUT`. Targets need not be within reach here.",
        ),
    ] = None,
    max_time: MaxTimeOption = None,
    wait: WaitOption = None,
    fresh: FreshOption = False,
    device: DeviceOption = "auto",
    threads: ThreadsOption = DEFAULT_THREADS,
    store: StoreOption = DEFAULT_STORE,
    quiet: QuietOption = False,
    json_: JsonOption = False,
) -> int:
    """Run a recipe: train, select, distill, quantize, export, measure, judge, report.

    Finished steps are taken from the store. Interrupted (Ctrl-C, kill, --max-time), the same command
    continues where it was. The exit code is the gate's verdict: 0 pass, 1 fail, 3 inconclusive; stopped
    after a step as asked, it is 0.
    """
    from edgekd.pipeline.plan import make_plan
    from edgekd.pipeline.portable.packing import check_request
    from edgekd.pipeline.recipe import load_recipe
    from edgekd.pipeline.surroundings import Settings
    from edgekd.pipeline.validation import check_recipe
    from edgekd.store.store import Store

    plan = make_plan(load_recipe(recipe, overrides=set_ or ()))
    if bundle is not None:
        check_request(plan, until, bundle)
    check_recipe(plan)
    settings = Settings(
        device=device,
        threads=threads,
        fresh=fresh,
        until=until,
        max_seconds=parse_duration(max_time),
        elsewhere=bundle is not None,
    )
    with waiting_for(wait):
        return carry_out(plan, Store(store), settings, quiet=quiet, json_=json_, bundle=bundle)


def carry_out(
    plan: Plan, store: Store, settings: Settings, *, quiet: bool, json_: bool, bundle: Path | None = None
) -> int:
    """Run a plan, write its reports or its `bundle`, print how it ended, and return the exit code."""
    from edgekd.cli.display import display, print_outcome
    from edgekd.pipeline.portable.packing import pack
    from edgekd.pipeline.run import run
    from edgekd.report.render import render

    with display(quiet=quiet or json_) as listener:
        outcome = run(plan, store, settings, [listener])
        portable = None if bundle is None else pack(outcome.folder, bundle, store, listener)
    reports = {} if outcome.verdict is None else render(outcome.folder, outcome.folder / "report")
    if json_:
        _print_json(outcome, reports, portable)
    elif outcome.verdict is None:
        typer.echo("\n".join([str(outcome.folder), *_what_next(outcome, portable)]))
    else:
        print_outcome(outcome.folder)
        typer.echo(f"report: {reports['html']}")
    return outcome.exit_code


def _what_next(outcome: Outcome, portable: PortableRun | None) -> Iterator[str]:
    """What came of a run that was asked to stop, and the command that goes on with it."""
    from edgekd.search.latency_table import TABLE

    if portable is not None:
        what = f"{len(portable.record.rows)} artifacts, {portable.num_images:,} test images"
        yield f"bundle: {portable.folder} ({portable.size_bytes / 1e6:.1f} MB: {what})"
        yield f"next: edgekd measure {portable.folder} --target {outcome.record.targets[0]}"
        return
    for step in [step for step in outcome.record.steps if step.folder is not None][-1:]:
        if step.kind == "latency":
            yield f"latency table: {outcome.folder / str(step.folder) / TABLE}"
            yield f"pin it anywhere: --set select.latency={TABLE}"


def _print_json(outcome: Outcome, reports: Mapping[str, Path], portable: PortableRun | None) -> None:
    import json

    told: dict[str, Any] = {"run": str(outcome.folder), "verdict": None}
    if portable is not None:
        told["bundle"] = {"folder": str(portable.folder), "size_bytes": portable.size_bytes}
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
