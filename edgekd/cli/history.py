"""`edgekd history`: what was measured of a recipe or an artifact over time, and what became worse."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli.options import DEFAULT_STORE, JsonOption, StoreOption


def command(
    what: Annotated[
        str | None,
        typer.Argument(
            help="A recipe's name, a run's or a bundle's folder, an artifact's file or the beginning of its "
            "digest; default: the recipe measured last."
        ),
    ] = None,
    target: Annotated[list[str] | None, typer.Option(help="Only here; repeatable; default: all.")] = None,
    quantity: Annotated[
        list[str] | None,
        typer.Option(
            help="What to show; repeatable; `all` for everything; default: accuracy, latency_p50_ms, "
            "size_bytes and memory_bytes."
        ),
    ] = None,
    row: Annotated[
        str | None, typer.Option(help="Another row of the recipe, such as `teacher`; default: what ships.")
    ] = None,
    last: Annotated[
        int | None, typer.Option(min=1, help="Only the newest N sessions of each target.")
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            help="Also write a CSV: of every quantity and row, unless --quantity or --row name some."
        ),
    ] = None,
    fail_on_regression: Annotated[
        bool,
        typer.Option(
            "--fail-on-regression",
            help="Exit code 1 if the newest session is worse than the one before in anything shown, 3 if "
            "that cannot be told.",
        ),
    ] = False,
    store: StoreOption = DEFAULT_STORE,
    json_: JsonOption = False,
) -> int:
    """Show what was measured over time on each target, and call what changed better or worse.

    Needs no torch, and measures nothing: times of two sessions are compared only as ratios to an artifact
    that both measured.
    """
    import json
    from functools import partial

    from edgekd.cli.history_table import summary_line, table
    from edgekd.core.durable import write_text
    from edgekd.pipeline.history.export import as_csv, as_data
    from edgekd.pipeline.history.series import ALL, HEADLINES, exit_code, find_history, series_of
    from edgekd.store.store import Store

    history = find_history(Store(store), what)
    select = partial(series_of, history, targets=target or (), last=last)
    series = select(quantities=quantity or HEADLINES, rows=[row])
    if csv is not None:
        rows = [row] if row or history.digest else history.rows
        write_text(csv, as_csv(select(quantities=quantity or [ALL], rows=rows)))
    code = exit_code(series)
    if json_:
        data = {"schema_version": 1, "of": history.title, "artifact": history.digest, "exit_code": code}
        typer.echo(json.dumps({**data, "problems": history.problems, "series": as_data(series)}, indent=2))
    else:
        for line in (*history.problems, *table(history.title, series), summary_line(series)):
            typer.echo(line)
    return code if fail_on_regression else 0
