"""What a change is: two measurements of different sessions, and better, worse or neither by its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from edgekd.core.measurement import Interval, Quantity, Subject
from edgekd.pipeline.history.record import Answers, Entry, Kept

Outcome = Literal["better", "worse", "no change", "cannot tell", "not comparable"]
UNDECIDED: frozenset[Outcome] = frozenset({"cannot tell", "not comparable"})

LESS_IS_BETTER: frozenset[Quantity] = frozenset(
    {
        *("accuracy_drop", "new_errors", "latency_p50_ms", "latency_p90_ms", "cold_start_ms"),
        *("sustained_ratio", "size_bytes", "memory_bytes", "energy_mj"),
    }
)


@dataclass(frozen=True)
class Point:
    """One measurement within its session."""

    entry: Entry
    kept: Kept

    @property
    def subject(self) -> Subject:
        return self.entry.subjects[self.kept.subject]

    @property
    def against(self) -> Subject | None:
        return self.entry.subjects[self.kept.against] if self.kept.against else None

    @property
    def answers(self) -> Answers | None:
        return self.entry.answers.get(self.kept.subject)


@dataclass(frozen=True)
class Change:
    """From an earlier measurement to a later one: the ratio later / earlier or the difference of them."""

    outcome: Outcome
    why: str
    form: Literal["ratio", "difference"] = "difference"
    value: float | None = None
    interval: Interval | None = None


def not_comparable(why: str) -> Change:
    return Change("not comparable", why)


def difference(value: float, interval: Interval, why: str) -> Change:
    """A difference that has yet to be judged."""
    return Change("cannot tell", why, "difference", value, interval)


def ratio(value: float, interval: Interval, why: str) -> Change:
    """A ratio that has yet to be judged."""
    return Change("cannot tell", why, "ratio", value, interval)


def judged(quantity: Quantity, found: Change, *, least: float, small: float) -> Change:
    """Better or worse only if the interval excludes no change and the change is at least `least`.

    An interval wholly within `small` is no change. Both are differences, or relative (0.01 is 1 %) for a
    ratio. An interval without width rests on nothing that varied, and tells nothing.
    """
    assert found.value is not None and found.interval is not None
    value, low, high = found.value, found.interval.low, found.interval.high
    if found.form == "ratio":
        value, low, high = math.log(value), math.log(low), math.log(high)
        least, small = math.log1p(least), math.log1p(small)
    if low == high:
        return replace(found, why=f"{found.why}; the interval has no width")
    if (low > 0 or high < 0) and abs(value) >= least:
        return replace(found, outcome=direction(quantity, value))
    return replace(found, outcome="no change") if -small <= low and high <= small else found


def direction(quantity: Quantity, value: float) -> Outcome:
    """What a rise (`value` > 0) or a fall of a quantity is."""
    return "better" if (value < 0) == (quantity in LESS_IS_BETTER) else "worse"


def refused(before: Point, after: Point) -> Change | None:
    """What may not be judged may not be compared."""
    for point, when in ((before, "then"), (after, "now")):
        if point.kept.value is None:
            return not_comparable(f"not measured {when}: {point.kept.not_measured or 'no reason given'}")
        if not point.kept.validity.valid:
            return not_comparable(f"invalid {when}: {'; '.join(point.kept.validity.reasons)}")
    return None


def intervals(before: Point, after: Point) -> tuple[Interval, Interval] | None:
    """Both intervals, if they are there and of one level."""
    old, new = before.kept.interval, after.kept.interval
    return (old, new) if old and new and old.level == new.level else None


def device_changes(before: Entry, after: Entry) -> tuple[str, ...]:
    """`kernel 6.1.0 -> 6.6.3` for each fact of the device, its settings and its runtime that differs."""
    names = sorted({*before.device, *after.device})
    pairs = [(name, before.device.get(name), after.device.get(name)) for name in names]
    return tuple(f"{name} {_told(old)} -> {_told(new)}" for name, old, new in pairs if old != new)


def _told(fact: object) -> str:
    return ",".join(map(str, fact)) if isinstance(fact, list) else "(none)" if fact is None else str(fact)
