"""`edgekd gate`: judge a run's measurements again, for CI; decide what is open; compare with a release."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli.options import (
    DEFAULT_STORE,
    JsonOption,
    RunArgument,
    SetOption,
    StoreOption,
    WaitOption,
    waiting_for,
)


def command(
    run: RunArgument = None,
    set_: SetOption = None,
    decide: Annotated[
        bool,
        typer.Option(
            "--decide",
            help="Measure as many more processes as would decide the open limits on times: once, up to 20 "
            "in all, pooled with the session. A second time it refuses.",
        ),
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(
            help="Also measure a released bundle beside the run's artifact now, in one session on the run's "
            "targets, and judge the limits `against: release` (or defaults, which are named).",
        ),
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Also write a JUnit XML file.")] = None,
    summary: Annotated[
        Path | None,
        typer.Option(
            help="Also append a Markdown summary to this file, as GitHub's $GITHUB_STEP_SUMMARY.",
            envvar="GITHUB_STEP_SUMMARY",
        ),
    ] = None,
    wait: WaitOption = None,
    store: StoreOption = DEFAULT_STORE,
    json_: JsonOption = False,
) -> int:
    """Judge a run by its gate, or by a changed one (`--set gate.size=10MB`).

    Nothing is measured unless `--decide` or `--against` asks for it: the gate is a function of the run's
    measurements. Needs no torch.
    Exit code: 0 pass, 1 fail, 3 inconclusive.
    """
    from edgekd.cli.display import display
    from edgekd.core.durable import append_text, write_text
    from edgekd.pipeline.judging import judge_with
    from edgekd.pipeline.portable.gathering import open_run
    from edgekd.report.collect import collect
    from edgekd.report.reading import read
    from edgekd.report.render import encodable, render_as
    from edgekd.report.terminal import plain_text
    from edgekd.store.store import Store

    kept = Store(store)
    folder = open_run(kept, run)
    with display(quiet=json_ or not (decide or against)) as listener, waiting_for(wait):
        verdict = judge_with(kept, folder, set_ or (), listener, more=decide, release=against)
    facts = collect(replace(read(folder), verdict=verdict))
    if junit is not None:
        write_text(junit, encodable(render_as("junit", facts)))
    if summary is not None:
        append_text(summary, encodable(render_as("summary", facts)))
    typer.echo(verdict.model_dump_json(indent=2) if json_ else encodable(plain_text(facts)))
    return verdict.exit_code
