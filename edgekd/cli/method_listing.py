"""`edgekd list methods`: what there is, one method in full, and every row of the surveys."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from edgekd.core.registry import Entry
    from edgekd.distill.survey import Row

_WIDTH = 100
_START = "start here"


def list_methods(*, json_: bool) -> None:
    """Every registered method in one line: the default first, then by family."""
    families: dict[str, list[dict[str, Any]]] = {}
    for row in _lines():
        families.setdefault(row["family"], []).append(row)
    if json_:
        _print_json([row for rows in families.values() for row in rows])
        return
    width = max(len(row["name"]) for rows in families.values() for row in rows)
    for family, rows in families.items():
        typer.echo(_heading(family))
        for row in rows:
            marks = "".join(f"  [{mark}]" for mark in row["marks"])
            typer.echo(f"  {row['name']:<{width}}  {row['summary']}{marks}")
    typer.echo("\n`edgekd list methods NAME` tells one in full, `edgekd list methods --all` every row of two")
    typer.echo("surveys with its status. Without a mark: one teacher. Training needs edgekd[train].")


def _lines() -> list[dict[str, Any]]:
    from edgekd.distill.catalogue import METHODS
    from edgekd.distill.describe import FAMILIES
    from edgekd.distill.settings import DistillSettings
    from edgekd.distill.survey import survey
    from edgekd.stages.distill import NO_TEACHER

    rows = {row.id: row for row in survey().rows if row.status == "method"}
    marks = {name: _marks(row) for name, row in rows.items()} | {NO_TEACHER[0].name: ["no teacher"]}
    first = [DistillSettings().method[0].name, NO_TEACHER[0].name]
    entries = [*map(METHODS.entry, first), *(entry for entry in METHODS if entry.name not in first)]
    lines = [_line(entry, marks.get(entry.name, []), entry.name in first) for entry in entries]
    order = [_START, *FAMILIES, *(line["family"] for line in lines)]
    return sorted(lines, key=lambda line: order.index(line["family"]))


def _line(entry: Entry, marks: list[str], first: bool) -> dict[str, Any]:
    from edgekd.distill.describe import family_of

    return {
        "name": entry.name,
        "summary": entry.summary,
        "needs": f"edgekd[{entry.extra}]" if entry.extra else "",
        "family": _START if first else family_of(entry.target),
        "marks": marks,
    }


def _marks(row: Row) -> list[str]:
    """What it takes beside labeled images and one teacher."""
    teachers = {0: ["no teacher"], 1: []}.get(row.teachers or 0, [f"{row.teachers} teachers or more"])
    return [*teachers, *(["unlabeled images"] if row.unlabeled else [])]


def _heading(family: str) -> str:
    from edgekd.distill.describe import FAMILIES

    if family == _START:
        return "start here: what `distill: {}` runs, and the control beside it"
    return f"\n{family}: {FAMILIES[family]}" if family in FAMILIES else f"\n{family}"


def show_method(name: str, *, json_: bool) -> None:
    """A registered method's card and parameters, or a row of the catalogue that is not a method.

    Raises `UsageError` for a name that is neither, `MissingDependencyError` for a card without torch.
    """
    from edgekd.distill.catalogue import METHODS
    from edgekd.distill.survey import survey

    rows = {row.id: row for row in survey().rows}
    row = rows.get(name) if name in METHODS else survey().row(name)
    known = name if row is None else row.id
    facts = _method_facts(METHODS.entry(known), row) if known in METHODS else _row_facts(survey().row(name))
    if json_:
        _print_json(facts)
    else:
        _print_facts(facts)


def _method_facts(entry: Entry, row: Row | None) -> dict[str, Any]:
    from dataclasses import asdict

    from edgekd.distill.catalogue import METHODS
    from edgekd.distill.describe import family_of, parameters_of

    method = METHODS.load(entry.name)
    card = method.card.model_dump(mode="json")
    return {
        "name": entry.name,
        "title": card.pop("title"),
        "status": "method",
        "family": family_of(entry.target),
        **{key: value for key, value in card.items() if key not in ("name", "catalogue_id")},
        "parameters": [asdict(parameter) for parameter in parameters_of(method.settings)],
        "row": row.model_dump(mode="json", exclude_defaults=True) if row else None,
    }


def _row_facts(row: Row) -> dict[str, Any]:
    from edgekd.distill.survey import MEANING, survey

    plain = row.model_dump(mode="json", exclude_defaults=True)
    told = survey()
    plain["status"] = f"{row.status}: {MEANING[row.status]}"
    plain["group"] = f"{row.group} {told.groups[row.group].title}"
    if row.unlock:
        plain["unlock"] = told.unlocks[row.unlock].what
    return {"name": plain.pop("id"), "title": plain.pop("name"), **plain}


def list_catalogue(*, status: str | None, group: str | None, json_: bool) -> None:
    """The rows of the surveys with their status. Raises `UsageError` for an unknown status or group."""
    from edgekd.distill.survey import survey

    told = survey()
    rows = told.select(status=status, group=group)
    if json_:
        _print_json([row.model_dump(mode="json", exclude_defaults=True) for row in rows])
        return
    for key in dict.fromkeys(row.group for row in rows):
        typer.echo(f"{key} {told.groups[key].title}")
        for row in rows:
            if row.group == key:
                _print_row(row)
    typer.echo(f"{len(rows)} of {len(told.rows)} rows; `edgekd list methods ID` tells one in full")


def _print_row(row: Row) -> None:
    wave = f" {row.wave}" if row.status == "planned" else ""
    cited = f" ({row.cited})" if row.cited else ""
    reason = row.note or (row.unlock or "").replace("-", " ")
    typer.echo(f"  {row.id:<26}  {row.status + wave:<9}  {row.name}{cited}{': ' if reason else ''}{reason}")


def _print_facts(facts: Mapping[str, Any]) -> None:
    typer.echo(f"{facts['name']}: {facts['title']}")
    for key, value in facts.items():
        if key not in ("name", "title", "row", "parameters"):
            _print_fact(key.replace("_", " "), value)
    for parameter in facts.get("parameters", ()):
        text = f"{parameter['kind']}; default {parameter['default']}; {parameter['meaning']}"
        _print_fact(f"parameter {parameter['name']}", text)
    row = facts.get("row") or {}
    _print_fact("in the surveys", row.get("where"))
    _print_fact("traps", row.get("traps"))


def _print_fact(label: str, value: Any) -> None:
    """One line, folded; a list has one entry a line."""
    words = ("yes" if value else "no") if isinstance(value, bool) else value
    entries: Iterable[Any] = words if isinstance(words, list) else [] if words in (None, "") else [words]
    for number, entry in enumerate(entries):
        head = label if number == 0 else ""
        typer.echo(
            textwrap.fill(str(entry), _WIDTH, initial_indent=f"  {head:<22} ", subsequent_indent=" " * 25)
        )


def _print_json(value: Any) -> None:
    import json

    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
