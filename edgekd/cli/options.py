"""Options and arguments that several commands share, so that they read and mean the same everywhere."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

RecipeArgument = Annotated[
    str, typer.Argument(help="A recipe file, or the name of a shipped one (`edgekd list recipes`).")
]
RunArgument = Annotated[
    str | None,
    typer.Argument(
        help="A run's folder (or that of `run --bundle`) or a recipe's name (its latest run); default: the "
        "latest run but ablations."
    ),
]
StoreOption = Annotated[
    Path, typer.Option("--store", envvar="EDGEKD_STORE", help="Folder that artifacts and runs are kept in.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change one key of the recipe: `--set distill.epochs=3`. Repeatable."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
DeviceOption = Annotated[
    str, typer.Option("--device", help="Where training runs: auto, cpu or cuda:0. Measuring is per target.")
]
ThreadsOption = Annotated[
    int, typer.Option("--threads", min=1, help="CPU threads that training uses; part of every step's key.")
]
UntilOption = Annotated[str | None, typer.Option(help="Stop after this step of the plan.")]
MaxTimeOption = Annotated[
    str | None,
    typer.Option("--max-time", help="End resumably after this long (`50m`, `2h`, `90s`); exit code 75."),
]
WaitOption = Annotated[
    str | None,
    typer.Option("--wait", help="Wait this long for a busy device (`30m`, `90s`); default: not at all."),
]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Do every step again, even what is stored.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Only the verdict.")]


def waiting_for(wait: str | None) -> AbstractContextManager[None]:
    """Within, busy devices are waited for as long as `--wait` says; for whom goes to standard error."""
    from edgekd.cli.run import parse_duration
    from edgekd.targets import lease

    seconds = parse_duration(wait, hint="--wait") or 0.0
    return lease.waiting(seconds, tell=lambda text: typer.echo(text, err=True))


DEFAULT_STORE = Path(".edgekd")
DEFAULT_THREADS = 2
