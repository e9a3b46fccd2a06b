"""What a device needs beside measuring: the runtime, steady clocks while it is measured, and cleaning up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekd.core.errors import TargetError
from edgekd.targets.asking import ask
from edgekd.targets.environment import SetUp, set_up
from edgekd.targets.target import Session

__all__ = ["Change", "Cleaned", "SetUp", "Tended", "clean", "prepare", "restore", "set_up"]

_TEND_S = 600.0
_SWEEP_S = 300.0


@dataclass(frozen=True)
class Change:
    """One setting: its file or name, what it was, what it is now."""

    what: str
    before: str
    after: str


@dataclass(frozen=True)
class Tended:
    """What `prepare` or `restore` did. With `problems`, the rest was done nevertheless."""

    changes: tuple[Change, ...]
    problems: tuple[str, ...]
    """Each with the line that the user may run instead."""
    notes: tuple[str, ...]
    denied: tuple[str, ...]
    """Commands that sudo wants a password for."""

    def sudoers(self, user: str = "USER") -> str | None:
        """The line for `/etc/sudoers.d/edgekd` that allows exactly these; None if none was denied."""
        commands = sorted(set(self.denied))
        return f"{user} ALL=(root) NOPASSWD: {', '.join(commands)}" if commands else None


@dataclass(frozen=True)
class Cleaned:
    """What `clean` removed, in bytes each, and what it could not."""

    removed: Mapping[str, int]
    problems: tuple[str, ...]


def prepare(session: Session, *, name: str, power_mode: str | None = None, root: str = "/") -> Tended:
    """Save governor, lowest clock, power mode and Jetson's clocks on the device; then set the fastest.

    The power mode stays unless one is named: it is part of what the device will be used in. Done twice, the
    first state stays saved. `root` stands in front of `/sys` and `/etc`. Raises `TargetError` when the device
    is lost; what could not be set is in `problems`.
    """
    return _tend(session, name, {"do": "prepare", "power_mode": power_mode, "root": root})


def restore(session: Session, *, name: str, root: str = "/") -> Tended:
    """Put back what `prepare` saved, also after an interrupted one, and forget it once all is back."""
    return _tend(session, name, {"do": "restore", "root": root})


def _tend(session: Session, name: str, request: Mapping[str, Any]) -> Tended:
    answer = ask(session, "clocks", request, where=name, timeout_s=_TEND_S)
    return Tended(
        tuple(Change(*change) for change in answer["changes"]),
        tuple(answer["problems"]),
        tuple(answer["notes"]),
        tuple(answer["denied"]),
    )


def clean(session: Session, *, name: str) -> Cleaned:
    """Remove the environment, the cache and the leftovers of dead sessions.

    The session's own folder goes when it closes. Raises `TargetError` for a device that is still prepared:
    only its folder knows what was set before.
    """
    answer = ask(session, "sweep", {}, where=name, timeout_s=_SWEEP_S)
    if answer["prepared"]:
        raise TargetError(
            "it is prepared; what was set before is known only in the folder to be removed",
            where=name,
            fix=f"edgekd device restore {name}",
        )
    return Cleaned(dict(answer["removed"]), tuple(answer["problems"]))
