"""`edgekd list`: what names a recipe may use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from edgekd.cli import method_listing
from edgekd.cli.options import JsonOption

FAMILIES = ("methods", "networks", "models", "spaces", "data", "stages", "backends", "targets", "recipes")


def command(
    family: Annotated[str, typer.Argument(help=f"One of {', '.join(FAMILIES)}.")],
    name: Annotated[str | None, typer.Argument(help="One of them; a method is told in full.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Methods: every row of the surveys.")] = False,
    status: Annotated[str | None, typer.Option(help="Rows with this status: planned, task...")] = None,
    group: Annotated[str | None, typer.Option(help="Rows of this table of the surveys: G05...")] = None,
    json_: JsonOption = False,
) -> None:
    """List the names a recipe may use, with what each is and what it needs."""
    if family not in FAMILIES:
        raise typer.BadParameter(f"`{family}` is not a family; choices: {', '.join(FAMILIES)}")
    rows_wanted = all_ or status is not None or group is not None
    if rows_wanted and (family != "methods" or name is not None):
        raise typer.BadParameter("--all, --status and --group go with `edgekd list methods` alone")
    if family != "methods":
        _list_names(family, name, json_)
    elif rows_wanted:
        method_listing.list_catalogue(status=status, group=group, json_=json_)
    elif name is not None:
        method_listing.show_method(name, json_=json_)
    else:
        method_listing.list_methods(json_=json_)


def _list_names(family: str, name: str | None, json_: bool) -> None:
    import json

    rows = _LISTERS.get(family, _registry_rows)(family)
    if name is not None:
        rows = [_named(name, rows, family)]
    if json_:
        typer.echo(json.dumps(rows, indent=2))
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        needs = f"  [needs {row['needs']}]" if row.get("needs") else ""
        typer.echo(f"{row['name']:<{width}}  {row['summary']}{needs}")
        if name is not None:
            for library, range_ in row.get("proven_with", {}).items():
                typer.echo(f"{'':<{width}}  proven with {library} {range_}")


def _named(name: str, rows: list[dict[str, Any]], family: str) -> dict[str, Any]:
    from edgekd.core.errors import UsageError, close_names

    for row in rows:
        if row["name"] == name:
            return row
    names = [row["name"] for row in rows]
    raise UsageError(f"`{name}` is not one of the {family}{close_names(name, names)}", choices=names)


def _registry_rows(family: str) -> list[dict[str, Any]]:
    from edgekd.core.registry import Registry

    module, attribute = _REGISTRIES[family]
    registry: Registry[Any] = getattr(__import__(module, fromlist=[attribute]), attribute)
    return [
        {"name": e.name, "summary": e.summary, "needs": f"edgekd[{e.extra}]" if e.extra else ""}
        for e in registry
    ]


_REGISTRIES = {
    "networks": ("edgekd.networks.names", "NETWORKS"),
    "spaces": ("edgekd.search.spaces", "SPACES"),
    "data": ("edgekd.data.catalogue", "SOURCES"),
    "stages": ("edgekd.stages.catalogue", "STAGES"),
    "backends": ("edgekd.backends.catalogue", "BACKENDS"),
}


def _models(family: str) -> list[dict[str, Any]]:
    import yaml

    from edgekd.core.shipped import shipped_models

    rows = []
    for name, folder in shipped_models().items():
        spec = yaml.safe_load((folder / "spec.yaml").read_text())
        rows.append({"name": name, "summary": spec.get("summary", ""), "needs": "edgekd[train]"})
    return rows


def _recipes(family: str) -> list[dict[str, Any]]:
    import yaml

    from edgekd.core.shipped import shipped_recipes

    rows = []
    for name, path in shipped_recipes().items():
        data = yaml.safe_load(path.read_text())
        rows.append({"name": name, "summary": data.get("description", ""), "needs": "edgekd[train]"})
    return rows


def _targets(family: str) -> list[dict[str, Any]]:
    from edgekd.targets.devices_file import DEVICES_FILE, read_targets

    return [
        {"name": name, "summary": f"{target.kind}, threads: {target.threads}", "needs": ""}
        for name, target in read_targets(Path(DEVICES_FILE)).items()
    ]


def _backends(family: str) -> list[dict[str, Any]]:
    from edgekd.backends.catalogue import BACKENDS

    return [
        {**row, "proven_with": dict(BACKENDS.load(row["name"]).versions)} for row in _registry_rows(family)
    ]


_LISTERS: Mapping[str, Callable[[str], list[dict[str, Any]]]] = {
    "backends": _backends,
    "models": _models,
    "recipes": _recipes,
    "targets": _targets,
}
