"""`edgekd report`: write a run's report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli.options import DEFAULT_STORE, RunArgument, StoreOption


def command(
    run: RunArgument = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; default: report/ in the run.")] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format", help="html, json, md, junit or summary; repeatable; default: the first four."
        ),
    ] = None,
    redact: Annotated[
        bool, typer.Option("--redact", help="Leave out host and user names, paths and remotes.")
    ] = False,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Write the report of a run: one self-contained HTML file, JSON, Markdown and JUnit. Needs no torch."""
    from edgekd.pipeline.portable.gathering import open_run
    from edgekd.pipeline.rejudge import confirm
    from edgekd.report.render import DEFAULT_FORMATS, FORMATS, render
    from edgekd.store.store import Store

    wanted = tuple(formats or DEFAULT_FORMATS)
    for name in wanted:
        if name not in FORMATS:
            raise typer.BadParameter(f"`{name}` is not a format; choices: {', '.join(FORMATS)}")
    folder = open_run(Store(store), run)
    confirm(folder)
    written = render(folder, out or folder / "report", formats=wanted, redact=redact)
    for path in written.values():
        typer.echo(str(path))
