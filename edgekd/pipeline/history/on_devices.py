"""Changes of what depends on the device: times by paired ratios only, memory by processes, size exactly.

Absolute times of two sessions are never compared: the device was warmer, busier or clocked otherwise. Two
artifacts that one session held are compared by its own ratio. Else, with an artifact R that both sessions
measured, on a device that is set up as it was,

    time(after) / time(before) = speed-up of `before` over R / speed-up of `after` over R,

by Welch's interval, widened by what such ratios move between sessions (`edgekd.measure.across_sessions`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from edgekd.core.measurement import Interval, Quantity, Subject
from edgekd.measure import latency
from edgekd.measure.across_sessions import LogMean, change_of_ratio, independent_difference
from edgekd.pipeline.history.change import (
    Change,
    Point,
    device_changes,
    direction,
    intervals,
    judged,
    not_comparable,
    ratio,
    refused,
)
from edgekd.pipeline.history.on_images import other_against
from edgekd.pipeline.history.record import Entry, Kept

SMALL_MEMORY = 0.01
SMALL_ACROSS = 0.10
"""An interval across sessions wholly within 10 % is no change: most sessions cannot tell less apart."""
REMEASURE = "measured in different sessions; `edgekd gate --against` re-measures"
_CONDITIONS = ("batch", "block")


def change_of_size(before: Point, after: Point) -> Change:
    """Exact: sizes are counted."""
    old, new = before.kept.value, after.kept.value
    if not old or not new:
        return not_comparable("the size is not known")
    outcome = "no change" if old == new else direction("size_bytes", new - old)
    return Change(outcome, "exact", "ratio", new / old)


def change_of_memory(before: Point, after: Point) -> Change:
    """Peaks of fresh processes repeat from day to day; the two t-intervals combined on the logarithm."""
    ends = intervals(before, after)
    if problem := refused(before, after):
        return problem
    if ends is None or min(ends[0].low, ends[1].low) <= 0:
        return not_comparable("a single number without an interval")
    old, new = (math.log(point.kept.value or 1.0) for point in (before, after))
    logs = [_mapped(end, math.log) for end in ends]
    found = _mapped(independent_difference(old, logs[0], new, logs[1]), math.exp)
    change = ratio(math.exp(new - old), found, "peaks of fresh processes")
    return judged("memory_bytes", change, least=SMALL_MEMORY, small=SMALL_MEMORY)


def not_carried_over(before: Point, after: Point) -> Change:
    """What moves with the day and has no ratio to a common artifact: energy, throughput, cold start, soak."""
    return refused(before, after) or not_comparable(REMEASURE)


# --- times --------------------------------------------------------------------------------------------------


def change_of_speedup(before: Point, after: Point) -> Change:
    """Of the speed-up over one artifact that both sessions measured."""
    if problem := refused(before, after) or other_against(before, after) or _other_conditions(before, after):
        return problem
    if not (_is_sampled(before.kept) and _is_sampled(after.kept)):
        return not_comparable(f"`{after.kept.against}` is the same graph, or there is no interval")
    old, new = LogMean.of(before.kept.parts), LogMean.of(after.kept.parts)
    return _across("speedup", old, new, f"both sessions measured the same `{after.kept.against}`")


def change_of_time(before: Point, after: Point) -> Change:
    """Of a latency percentile; the median's ratio is that of block minima, as the speed-up's."""
    for point in (before, after):
        if point.kept.value is None:
            return not_comparable(f"not measured: {point.kept.not_measured or 'no reason given'}")
    if found := _side_by_side(before, after):
        return found
    if _tail(after):
        return not_comparable(f"{REMEASURE}; a tail's ratio moves with the load, so none is carried over")
    return _other_conditions(before, after) or _through_reference(before, after)


def _side_by_side(before: Point, after: Point) -> Change | None:
    """From one session that held both artifacts, the later one if both did; an earlier device is another."""
    old, new = before.subject, after.subject
    entries = [after.entry, *([] if device_changes(before.entry, after.entry) else [before.entry])]
    for entry in entries:
        for kept in _speedups(entry, new, old):
            found = kept.p90_ratio if _tail(after) else kept.interval
            if kept.validity.valid and found and kept.value and found.low > 0:
                value = math.sqrt(found.low * found.high) if _tail(after) else kept.value
                change = ratio(1 / value, _inverse(found), "both in one session, interleaved")
                least = latency.LEAST_SPEEDUP
                return judged(after.kept.quantity, change, least=least, small=least)
    return None


def _through_reference(before: Point, after: Point) -> Change:
    """By the artifact nearest in speed over which both sessions have a valid speed-up: it moves least."""
    common = list(_common(before, after))
    pairs = [
        (LogMean.of(old.parts), LogMean.of(new.parts), name)
        for name, old, new in common
        if old.validity.valid and new.validity.valid
    ]
    if not pairs:
        reasons = [
            r for _, *kept in common for one in kept if not one.validity.valid for r in one.validity.reasons
        ]
        more = f"; a ratio to what both measured is invalid: {reasons[0]}" if reasons else ""
        return not_comparable(REMEASURE + more)
    old, new, name = min(pairs, key=lambda pair: max(abs(pair[0].mean), abs(pair[1].mean)))
    why = f"as ratios to `{name}`, which both sessions measured"
    return _across(after.kept.quantity, new, old, why)  # a greater speed-up is less time


def _common(before: Point, after: Point) -> Iterator[tuple[str, Kept, Kept]]:
    """The artifacts that both sessions measured, and both speed-ups over each."""
    for reference in before.entry.subjects.values():
        old, new = (next(_speedups(p.entry, p.subject, reference), None) for p in (before, after))
        if old is not None and new is not None:
            yield reference.name, old, new


def _across(quantity: Quantity, before: LogMean, after: LogMean, why: str) -> Change:
    value, interval = change_of_ratio(before, after)
    return judged(quantity, ratio(value, interval, why), least=latency.LEAST_SPEEDUP, small=SMALL_ACROSS)


def _other_conditions(before: Point, after: Point) -> Change | None:
    """A ratio moves with the runtime and the settings, and which of its two sides moved is not known."""
    changes = device_changes(before.entry, after.entry)
    old, new = before.entry.protocol, after.entry.protocol
    changes += tuple(f"{n} {old.get(n)} -> {new.get(n)}" for n in _CONDITIONS if old.get(n) != new.get(n))
    if not changes:
        return None
    more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
    return not_comparable(f"{REMEASURE}; the conditions changed: {changes[0]}{more}")


def _speedups(entry: Entry, subject: Subject, against: Subject) -> Iterator[Kept]:
    """A session's speed-ups of one artifact over another, whichever way round they were measured."""
    for kept in entry.measurements:
        if kept.quantity == "speedup" and kept.against is not None and kept.value and _is_sampled(kept):
            pair = entry.subjects[kept.subject].digest, entry.subjects[kept.against].digest
            if pair == (subject.digest, against.digest):
                yield kept
            elif pair == (against.digest, subject.digest):
                yield _turned(kept)


def _is_sampled(kept: Kept) -> bool:
    """Whether several processes gave a ratio: a graph against itself has none."""
    return len(kept.parts) > 1 and min(kept.parts) > 0


def _turned(kept: Kept) -> Kept:
    """The speed-up of the other one over this one."""
    assert kept.value is not None and kept.against is not None
    return kept.model_copy(
        update={
            "subject": kept.against,
            "against": kept.subject,
            "value": 1 / kept.value,
            "interval": kept.interval and _inverse(kept.interval),
            "parts": tuple(1 / part for part in kept.parts),
            "p90_ratio": kept.p90_ratio and _inverse(kept.p90_ratio),
        }
    )


def _tail(point: Point) -> bool:
    return point.kept.quantity == "latency_p90_ms"


def _inverse(interval: Interval) -> Interval:
    return interval.model_copy(update={"low": 1 / interval.high, "high": 1 / interval.low})


def _mapped(interval: Interval, function: Callable[[float], float]) -> Interval:
    return interval.model_copy(update={"low": function(interval.low), "high": function(interval.high)})
