"""`edgekd bundle`: what is handed to people and to CI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli.options import DEFAULT_STORE, RunArgument, StoreOption


def command(
    run: RunArgument = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to make; default: RECIPE-bundle.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Make a bundle of a finished run.

    It holds the artifact, labels, preprocessing, card, measurements, digests and a predict.py.
    """
    from edgekd.pipeline.bundle import make_bundle
    from edgekd.pipeline.portable.gathering import open_run
    from edgekd.pipeline.rejudge import confirm
    from edgekd.pipeline.run_folder import read_record
    from edgekd.store.store import Store

    folder = open_run(Store(store), run)
    confirm(folder)
    bundle = make_bundle(folder, out or Path(f"{read_record(folder).recipe}-bundle"), force=force)
    typer.echo(
        f"{bundle.folder}: {bundle.manifest.graph} ({bundle.precision}), verdict {bundle.manifest.verdict}"
    )
