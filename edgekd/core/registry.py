"""Names that a recipe may use, each bound to the code behind it, loaded on first use.

Registration is an explicit list in one module per family; a third party adds to it through an entry point
of the registry's group (`[project.entry-points."edgekd.networks"]`), whose name is the registered name.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Generic, TypeVar, cast

from edgekd.core.errors import MissingDependencyError, UsageError, close_names

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """One name: `target` is `package.module:attribute`; `extra` is the optional dependency group it needs."""

    name: str
    target: str
    summary: str
    extra: str | None = None


class Registry(Generic[T]):
    """A family of names. `load` imports the code behind one of them."""

    def __init__(self, kind: str, entries: Iterable[Entry], *, group: str | None = None) -> None:
        self.kind = kind
        self._entries: dict[str, Entry] = {}
        for entry in entries:
            self.add(entry)
        self._group = group
        self._plugins_read = group is None

    def add(self, entry: Entry) -> None:
        if entry.name in self._entries:
            raise ValueError(f"the {self.kind} `{entry.name}` is registered twice")
        self._entries[entry.name] = entry

    def names(self) -> tuple[str, ...]:
        return tuple(self._all())

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._all().values())

    def __contains__(self, name: object) -> bool:
        return name in self._all()

    def entry(self, name: str) -> Entry:
        """The entry of `name`; raises `UsageError` with the legal names for an unknown one."""
        entries = self._all()
        if name not in entries:
            raise UsageError(f"`{name}` is not a {self.kind}{close_names(name, entries)}", choices=entries)
        return entries[name]

    def load(self, name: str) -> T:
        """Import and return the object behind `name`.

        Raises `UsageError` for an unknown name, `MissingDependencyError` when its extra is not installed.
        """
        entry = self.entry(name)
        module_name, _, attribute = entry.target.partition(":")
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if entry.extra is None or (error.name or "").startswith("edgekd"):
                raise
            raise MissingDependencyError(
                error.name or "?", extra=entry.extra, where=f"{self.kind} `{name}`"
            ) from error
        return cast(T, getattr(module, attribute))

    def _all(self) -> dict[str, Entry]:
        if not self._plugins_read:
            self._plugins_read = True
            for point in entry_points(group=self._group or ""):
                self.add(Entry(point.name, point.value, f"plug-in {point.value}"))
        return self._entries
