"""`edgekd show`: look at a run, an artifact or a bundle in the terminal."""

from __future__ import annotations

from pathlib import Path

import typer

from edgekd.cli.options import DEFAULT_STORE, JsonOption, RunArgument, StoreOption


def command(run: RunArgument = None, store: StoreOption = DEFAULT_STORE, json_: JsonOption = False) -> None:
    """Show a run (its verdict, waterfall and steps), or the facts of an artifact's folder."""
    import json

    from edgekd.core.artifact import MANIFEST, Artifact
    from edgekd.pipeline.portable.gathering import open_run
    from edgekd.pipeline.run_folder import read_record
    from edgekd.store.store import Store

    if run is not None and (Path(run) / MANIFEST).is_file():
        artifact = Artifact.read(Path(run))
        typer.echo(
            json.dumps({"digest": artifact.digest, **artifact.manifest.model_dump(mode="json")}, indent=2)
        )
        return
    folder = open_run(Store(store), run)
    record = read_record(folder)
    if json_:
        typer.echo(record.model_dump_json(indent=2))
        return
    if record.finished_at is not None:
        from edgekd.cli.display import print_outcome
        from edgekd.pipeline.rejudge import confirm

        confirm(folder)
        print_outcome(folder)
    typer.echo(f"{folder}")
    for step in record.steps:
        mark = {"pending": " ", "cached": "=", "ran": "+"}[step.status]
        control = " (control)" if step.control else ""
        typer.echo(f"  {mark} {step.name}{control}  {str(step.digest or 'not done yet')[:12]}")
