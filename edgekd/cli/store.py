"""`edgekd store`: its size, its garbage, and moving artifacts between machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgekd.cli.options import DEFAULT_STORE, JsonOption, StoreOption

app = typer.Typer(no_args_is_help=True, help="Look after the store: size, gc, export, import.")


@app.command("size")
def size(store: StoreOption = DEFAULT_STORE, json_: JsonOption = False) -> None:
    """How many bytes each part of the store takes."""
    import json

    from edgekd.store.store import Store
    from edgekd.store.upkeep import sizes

    found = sizes(Store(store))
    if json_:
        typer.echo(json.dumps(found))
        return
    for name, count in found.items():
        typer.echo(f"{name:<8} {count / 1e6:10.1f} MB")


@app.command("gc")
def gc(
    store: StoreOption = DEFAULT_STORE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    unrun: Annotated[
        bool, typer.Option("--unrun", help="Also drop artifacts that belong to no run folder.")
    ] = False,
) -> None:
    """Remove leftovers and the cache. Artifacts that a step key or a run uses stay."""
    from edgekd.store.store import Store
    from edgekd.store.upkeep import collect, garbage

    opened = Store(store)
    found = garbage(opened) if dry_run else collect(opened, forget_keys=unrun)
    verb = "would free" if dry_run else "freed"
    typer.echo(f"{verb} {found.size_bytes / 1e6:.1f} MB in {len(found.paths)} places")


@app.command("export")
def export(
    archive: Annotated[Path, typer.Argument(help="The .tar to write.")],
    run: Annotated[str | None, typer.Option(help="Only this run's artifacts; default: everything.")] = None,
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Write artifacts with their keys to an archive, so that another machine need not make them again."""
    from edgekd.pipeline.run_folder import find_run, read_record
    from edgekd.store.store import Store
    from edgekd.store.upkeep import export as export_keys

    opened = Store(store)
    if run is not None:
        keys = [step.key for step in read_record(find_run(opened, run)).steps]
    else:
        keys = [path.stem for path in (opened.root / "keys").glob("*.json")]
    typer.echo(f"{archive}: {export_keys(opened, keys, archive)} artifacts")


@app.command("import")
def import_(
    archive: Annotated[Path, typer.Argument(help="A .tar written by `edgekd store export`.")],
    store: StoreOption = DEFAULT_STORE,
) -> None:
    """Bring in artifacts from an archive; every digest is checked first."""
    from edgekd.store.store import Store
    from edgekd.store.upkeep import import_archive

    typer.echo(f"{import_archive(Store(store), archive)} artifacts imported")
