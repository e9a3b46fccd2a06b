"""What took time away while timing: other processes on the same cores, and cooling by slower cores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FOREIGN_MAX = 0.10
"""Share of the time of the cores that the process may use: beyond it, others compete with it."""

State = Mapping[str, Any]
"""What the agent's `state()` returned."""


def foreign_share(before: State, after: State) -> float | None:
    """Share of the cores' ticks between two states in which something else than the process ran.

    The cores are those that the process may use. None where the kernel does not tell.
    """
    cores, busy, own = (_rise(before, after, key) for key in ("core_ticks", "busy_ticks", "own_ticks"))
    if cores is None or busy is None or own is None or cores <= 0:
        return None
    return max(0, busy - own) / cores


def foreign_load(processes: Sequence[Mapping[str, Any]]) -> float:
    """The same over all processes of a session (each with a `state`), 0 where nothing is told."""
    cores = foreign = 0.0
    for process in processes:
        before, after = process["state"]["before"], process["state"]["after"]
        share, rise = foreign_share(before, after), _rise(before, after, "core_ticks")
        if share is not None and rise is not None:
            cores += rise
            foreign += share * rise
    return foreign / cores if cores else 0.0


def cooling(states: Sequence[State]) -> tuple[str, ...]:
    """The cooling devices by which the kernel held cores back, in any of the states."""
    held = {name: steps for state in states for name, steps in (state.get("cooling") or {}).items() if steps}
    return tuple(f"throttled: {name} took {steps} steps" for name, steps in held.items())


def _rise(before: State, after: State, key: str) -> float | None:
    first, last = before.get(key), after.get(key)
    return None if first is None or last is None else last - first
