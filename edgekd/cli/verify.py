"""`edgekd verify`: is a bundle what it was when it was made?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder, or that of `edgekd run --bundle`.")],
) -> None:
    """Recompute every digest of a bundle. Exit code 2 when a file is missing, changed or extra."""
    from edgekd.pipeline.bundle import read_bundle
    from edgekd.pipeline.portable.folder import find_portable
    from edgekd.pipeline.portable.sessions import one_a_target, read_sessions

    if (portable := find_portable(bundle)) is not None:
        portable.verify()
        sessions = read_sessions(portable)
        one_a_target(sessions)
        measured = ", ".join(one.target for one in sessions) or "no target yet"
        typer.echo(f"{bundle}: {len(portable.content.files)} files match; measured on {measured}")
        return
    read = read_bundle(bundle)
    read.verify()
    typer.echo(f"{bundle}: {len(read.manifest.files)} files match; verdict {read.manifest.verdict}")
