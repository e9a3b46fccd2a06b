"""`edgekd verify`: is a bundle what it was when it was made?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(bundle: Annotated[Path, typer.Argument(help="A bundle's folder.")]) -> None:
    """Recompute every digest of a bundle. Exit code 2 when a file is missing, changed or extra."""
    from edgekd.pipeline.bundle import read_bundle

    read = read_bundle(bundle)
    read.verify()
    typer.echo(f"{bundle}: {len(read.manifest.files)} files match; verdict {read.manifest.verdict}")
