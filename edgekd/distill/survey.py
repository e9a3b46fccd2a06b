"""The rows of `edgekd/catalogue.yaml`: everything two surveys name, and what edgekd makes of it.

Importing this needs no torch; reading the file takes a fifth of a second, so only commands that show it do.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Literal, get_args

import yaml
from pydantic import Field, model_validator

from edgekd.core.config import Config
from edgekd.core.errors import UsageError, close_names

FILE = Path(__file__).resolve().parents[1] / "catalogue.yaml"

BEYOND = "X01"
"""The group of the rows that are in neither survey."""

Status = Literal["method", "part", "planned", "open", "task", "theory"]
STATUSES: tuple[Status, ...] = get_args(Status)
MEANING: dict[Status, str] = {
    "method": "registered: a recipe may name it",
    "part": "covered by something else in edgekd",
    "planned": "an image classifier can use it; its wave says in which order it comes",
    "open": "could be used, and nobody plans it",
    "task": "needs another task than image classification",
    "theory": "an analysis: there is nothing to train by that name",
}


class Group(Config):
    """A table of the surveys, and how many rows it has; what is beyond them may grow."""

    title: str
    rows: int | None = None


class Unlock(Config):
    """What would make rows with the status `task` possible; `order` 1 is worth most."""

    order: int
    what: str
    rows: int


class Row(Config):
    """One system, formula or idea. `summary` is in the notation of the file's header, not that of our cards.

    year, authors: as the survey cites them. where: sections and tables. covered_by: a file, `file::name`, or
    a registered method. unlock: what a `task` waits for. traps: where surveys, papers and public code differ.
    teachers: the fewest that a `method` works with. unlabeled: it reads unlabeled images beside the labeled.
    """

    id: str = Field(pattern=r"^[a-z0-9-]+$")
    group: str
    name: str
    year: str = ""
    authors: str = ""
    where: str
    knowledge: str
    scheme: str
    fits: Literal["core", "task", "infra", "theory"]
    size: Literal["S", "M", "L"] | None = None
    summary: str
    needs: str = ""
    reference: str = ""
    aliases: tuple[str, ...] = ()
    wave: Literal[1, 2, 3] | None = None
    status: Status
    covered_by: tuple[str, ...] = ()
    unlock: str | None = None
    note: str = ""
    traps: tuple[str, ...] = ()
    teachers: int | None = None
    unlabeled: bool = False

    @model_validator(mode="after")
    def _says_why(self) -> Row:
        wanted = {
            "method": self.teachers is not None,
            "part": bool(self.covered_by and self.note),
            "planned": bool(self.wave and self.note),
            "task": bool(self.unlock),
        }
        if not wanted.get(self.status, bool(self.note)):
            raise ValueError(f"row `{self.id}` has the status `{self.status}` and does not say enough of it")
        return self

    @property
    def cited(self) -> str:
        """`Hinton, Vinyals, Dean 2015`; empty where the surveys name nobody."""
        return " ".join(part for part in (self.authors, self.year) if part)


class Survey(Config):
    """The whole file."""

    groups: dict[str, Group]
    unlocks: dict[str, Unlock]
    rows: tuple[Row, ...]

    def row(self, name: str) -> Row:
        """The row with this id or alias. Raises `UsageError` with close names for neither."""
        ids = {row.id: row for row in self.rows}
        aliases = {alias: row for row in reversed(self.rows) for alias in row.aliases}
        if name not in ids and name not in aliases:
            known = (*ids, *aliases)
            raise UsageError(
                f"`{name}` is neither a method nor a row of the catalogue{close_names(name, known)}",
                fix="`edgekd list methods --all` shows every row",
            )
        return ids[name] if name in ids else aliases[name]

    def select(self, *, status: str | None = None, group: str | None = None) -> tuple[Row, ...]:
        """The rows with this status and in this group. Raises `UsageError` for an unknown one."""
        _check("status", status, STATUSES)
        _check("group", group, self.groups)
        return tuple(
            row
            for row in self.rows
            if row.status == (status or row.status) and (group or row.group) == row.group
        )


def _check(kind: str, value: str | None, choices: Iterable[str]) -> None:
    if value is not None and value not in choices:
        raise UsageError(f"`{value}` is not a {kind} of the catalogue", choices=choices)


@cache
def survey() -> Survey:
    """What the file holds, read once."""
    return Survey.model_validate(_plain(FILE.read_text(encoding="utf-8")))


def _plain(text: str) -> object:
    """As `yaml.safe_load`, by the parser in C where PyYAML has it: six times as fast."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    return loader.get_single_data()
