"""The budget of a selection: what the gate will ask of latency and size, minus a margin."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from edgekd.core.config import Config
from edgekd.core.errors import UsageError
from edgekd.core.verdict import Limit

SMALLEST_TAIL = 1.0
_NOT_YET_KNOWN = {
    "memory_bytes": "memory is measured in the final session only",
    "energy_mj": "energy is measured in the final session only",
    "cold_start_ms": "the cold start is measured in the final session only",
}


class Bound(Config):
    """One limit of the gate turned into the largest p50 latency (ms) or size (bytes) a candidate may have."""

    on: Literal["latency_ms", "size_bytes"]
    target: str
    value: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    quantity: str
    """The gate's quantity it comes from."""
    limit: float
    source: str
    """How the recipe wrote the limit."""

    def excess(self, cost: float) -> float:
        """cost / bound: above 1 the candidate does not fit."""
        return cost / self.value if self.value > 0 else float("inf")

    def admitting(self, cost: float) -> float:
        """The limit, in the gate's own unit, that would just admit `cost` with the same margin."""
        if self.quantity == "speedup":
            return self.limit * self.value / cost
        return self.limit * cost / self.value if self.value > 0 else float("inf")


Excess = tuple[Bound, float, float]
"""(bound, cost, cost / bound)."""


class Budget(Config):
    """All bounds at once. `notes` say which limits could not be turned into a bound, and what was assumed."""

    bounds: tuple[Bound, ...] = ()
    margin: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def latency_ms(self) -> dict[str, float]:
        """Target -> the largest p50 that meets every latency limit of that target."""
        bounds = [bound for bound in self.bounds if bound.on == "latency_ms"]
        targets = dict.fromkeys(bound.target for bound in bounds)
        return {name: min(b.value for b in bounds if b.target == name) for name in targets}

    @property
    def size_bytes(self) -> float | None:
        return min((bound.value for bound in self.bounds if bound.on == "size_bytes"), default=None)

    def excesses(self, latency_ms: Mapping[str, float], size_bytes: float) -> list[Excess]:
        """One row for every bound, the worst first."""
        costs = [
            (bound, size_bytes if bound.on == "size_bytes" else latency_ms[bound.target])
            for bound in self.bounds
        ]
        rows = [(bound, cost, bound.excess(cost)) for bound, cost in costs]
        return sorted(rows, key=lambda row: -row[2])


def from_limits(
    limits: Sequence[Limit],
    teacher_latency_ms: Mapping[str, float],
    margin: float = 0.1,
    *,
    tail: Mapping[str, float] | None = None,
) -> Budget:
    """The budget that leaves `margin` (a share of time or bytes) below every limit of the gate.

        latency_p50_ms max L:  p50 <= L (1 - margin)
        latency_p90_ms max L:  p50 <= L (1 - margin) / tail,     tail = p90 / p50 as seen on that target
        speedup min S:         p50 <= teacher / S (1 - margin)
        size_bytes max B:      size <= B (1 - margin)

    `teacher_latency_ms` is the teacher's p50 by target. Limits on accuracy are not budgets: the score sees
    to them. Raises `UsageError` for a margin outside [0, 1), or a speed-up on a target where the teacher
    was not timed.
    """
    if not 0 <= margin < 1:
        raise UsageError(f"the margin is a share, not {margin}", where="margin", fix="0.1 leaves 10 %")
    bounds: list[Bound] = []
    notes: list[str] = []
    for limit in limits:
        reader = _READERS.get(limit.quantity)
        if reader is not None:
            bounds += reader(limit, _Context(teacher_latency_ms, 1 - margin, tail or {}, notes))
        elif limit.quantity in _NOT_YET_KNOWN:
            notes.append(f"{_name(limit)} is no part of the budget: {_NOT_YET_KNOWN[limit.quantity]}")
    return Budget(bounds=tuple(bounds), margin=margin, notes=tuple(notes))


class _Context:
    """What a limit's reader may look at; it appends to `notes`."""

    def __init__(
        self, teacher_ms: Mapping[str, float], keep: float, tail: Mapping[str, float], notes: list[str]
    ) -> None:
        self.teacher_ms = teacher_ms
        self.keep = keep
        self.tail = tail
        self.notes = notes


def _name(limit: Limit) -> str:
    return limit.source or f"{limit.quantity} on {limit.target}"


def _bound(limit: Limit, on: Literal["latency_ms", "size_bytes"], written: float, value: float) -> Bound:
    return Bound(
        on=on,
        target=limit.target,
        value=value,
        quantity=limit.quantity,
        limit=written,
        source=_name(limit),
    )


def _p50(limit: Limit, context: _Context) -> list[Bound]:
    if limit.max is None:
        return []
    return [_bound(limit, "latency_ms", limit.max, limit.max * context.keep)]


def _p90(limit: Limit, context: _Context) -> list[Bound]:
    if limit.max is None:
        return []
    tail = context.tail.get(limit.target)
    if tail is None:
        context.notes.append(f"{_name(limit)}: p90 / p50 of `{limit.target}` is not known, taken as 1")
    value = limit.max * context.keep / max(tail or SMALLEST_TAIL, SMALLEST_TAIL)
    return [_bound(limit, "latency_ms", limit.max, value)]


def _speedup(limit: Limit, context: _Context) -> list[Bound]:
    if limit.min is None or limit.min <= 0:
        return []
    if limit.against not in (None, "teacher"):
        context.notes.append(f"{_name(limit)} is no part of the budget: `{limit.against}` is not chosen yet")
        return []
    if limit.target not in context.teacher_ms:
        raise UsageError(
            f"a speed-up against the teacher needs its latency on `{limit.target}`",
            where=_name(limit),
            choices=context.teacher_ms,
            fix="time the teacher on this target in the `latency` step",
        )
    value = context.teacher_ms[limit.target] / limit.min * context.keep
    return [_bound(limit, "latency_ms", limit.min, value)]


def _size(limit: Limit, context: _Context) -> list[Bound]:
    if limit.max is None:
        return []
    return [_bound(limit, "size_bytes", limit.max, limit.max * context.keep)]


_READERS: dict[str, Callable[[Limit, _Context], list[Bound]]] = {
    "latency_p50_ms": _p50,
    "latency_p90_ms": _p90,
    "speedup": _speedup,
    "size_bytes": _size,
}
