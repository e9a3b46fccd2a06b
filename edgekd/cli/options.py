"""Options and arguments that several commands share, so that they read and mean the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipeArgument = Annotated[
    str, typer.Argument(help="A recipe file, or the name of a shipped one (`edgekd list recipes`).")
]
RunArgument = Annotated[
    str | None,
    typer.Argument(
        help="A run's folder or a recipe's name (its latest run); default: the latest run but ablations."
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
FreshOption = Annotated[bool, typer.Option("--fresh", help="Do every step again, even what is stored.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Only the verdict.")]

DEFAULT_STORE = Path(".edgekd")
DEFAULT_THREADS = 2
