"""Which of several artifacts of one student ships: the fastest that keeps the limits on validation data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgekd.core.verdict import Outcome
from edgekd.measure.estimate import Estimate
from edgekd.measure.latency import claim

_ORDER: tuple[Outcome, ...] = ("pass", "inconclusive", "fail")


@dataclass(frozen=True)
class Contender:
    """One artifact with what validation data say of it."""

    name: str
    outcomes: tuple[Outcome, ...]
    """Of every limit that validation data can speak of."""
    accuracy: float
    """On validation data, the lowest over the targets."""
    size_bytes: int

    @property
    def standing(self) -> Outcome:
        """The worst of its outcomes."""
        return max(self.outcomes, key=_ORDER.index, default="pass")


Speedup = Callable[[str, str], Estimate]
"""(name, against) -> time of `against` over time of `name` on one target, with its interval."""


@dataclass(frozen=True)
class Choice:
    """What ships."""

    winner: str
    reason: str
    slowness: Mapping[str, float]
    """By contender: its time over the shortest one, on the target where that is most."""


def choose(contenders: Sequence[Contender], speedups: Sequence[Speedup]) -> Choice:
    """The fastest of those that keep the limits; of those not told apart from it, the most accurate.

    `speedups` has one entry a target; several count by the worst. Those that surely keep every limit come
    before those that may. Where none may, the most accurate is chosen: what the gate says of it is then the
    nearest to a pass. Raises `ValueError` without contenders.
    """
    best = min((one.standing for one in contenders), key=_ORDER.index)
    group = [one for one in contenders if one.standing == best]
    slowness = {one.name: _slowness(one.name, contenders, speedups) for one in contenders}
    if best == "fail":
        winner = max(group, key=lambda one: (one.accuracy, -slowness[one.name]))
        return Choice(winner.name, "none keeps the limits on validation data: the most accurate", slowness)
    fastest = min(group, key=lambda one: slowness[one.name])
    level = [one for one in group if not _slower(one.name, fastest.name, speedups)]
    winner = max(level, key=lambda one: (one.accuracy, -one.size_bytes, -slowness[one.name]))
    kept = "that keep the limits" if best == "pass" else "that may keep the limits (none surely does)"
    reason = f"the fastest of {len(group)} {kept} on validation data"
    if len(level) > 1:
        reason += f"; {len(level)} are not told apart in time, of which it is the most accurate"
    return Choice(winner.name, reason, slowness)


def _slowness(name: str, contenders: Sequence[Contender], speedups: Sequence[Speedup]) -> float:
    """The most, over targets and contenders, that another one is faster; 1 of the fastest."""
    others = [one.name for one in contenders if one.name != name]
    return max(1.0, *(_value(speedup(other, name)) for speedup in speedups for other in others), 1.0)


def _slower(name: str, fastest: str, speedups: Sequence[Speedup]) -> bool:
    """Whether it is surely slower on any target; a single process tells by its value alone."""
    return name != fastest and any(_surely_slower(speedup(name, fastest)) for speedup in speedups)


def _surely_slower(found: Estimate) -> bool:
    value = _value(found)
    return value < 1 if found.interval is None else claim(value, found.interval) == "slower"


def _value(found: Estimate) -> float:
    assert found.value is not None
    return found.value
