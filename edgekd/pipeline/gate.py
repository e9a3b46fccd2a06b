"""The gate: from measurements and policy to a verdict, and to what would decide an open one.

The legal region of a limit is closed: a value equal to the bound is inside. With `[low, high]` the interval,
widened to hold the value itself,

    pass          low >= min and high <= max       (wholly inside)
    fail          high < min or low > max          (wholly outside)
    inconclusive  anything else, and every measurement that may not be judged

so an interval that touches the bound from inside passes, one that touches it from outside is inconclusive.
The gate never computes a number of its own; what cannot be judged never passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from edgekd.core.measurement import Measurement, Quantity, Subject
from edgekd.core.run_record import Finding
from edgekd.core.verdict import ANY_TARGET, Limit, LimitResult, Outcome, Verdict, outcome_of
from edgekd.measure.decidability import (
    images_to_decide_drop,
    images_to_decide_share,
    processes_to_decide,
    second_look,
)
from edgekd.measure.distributions import student_t_quantile
from edgekd.pipeline.gate_policy import GatePolicy, limits

__all__ = ["GatePolicy", "judge", "judge_limit", "limits"]

EXACT: frozenset[Quantity] = frozenset({"size_bytes"})
"""Quantities that are counted, not sampled: no interval is needed, and no device is involved."""
TIMED: frozenset[Quantity] = frozenset(
    {
        "latency_p50_ms",
        "latency_p90_ms",
        "speedup",
        "throughput_ips",
        "cold_start_ms",
        "sustained_ratio",
        "memory_bytes",
        "energy_mj",
    }
)
"""Quantities whose uncertainty shrinks with further processes; that of the others with further images."""
TIMES: frozenset[Quantity] = frozenset({"latency_p50_ms", "latency_p90_ms", "speedup"})
"""Those that `--decide` measures further processes of, to be looked at a second time."""

_CLOCK_SKEW = timedelta(minutes=5)
_MOST_TIMES = 1000.0
MEASURE = "edgekd measure"
"""The command that measures a run."""


@dataclass(frozen=True)
class Situation:
    """What the measurements are judged against beside the limits."""

    policy: GatePolicy
    final: str
    final_digest: str
    now: datetime
    against: Mapping[str, Subject] = field(default_factory=dict)
    measure: str = MEASURE

    @property
    def again(self) -> str:
        """What provides another measurement."""
        return f"measure again: `{self.measure}`"

    def on(self, target: str) -> str:
        """What provides one that is not there."""
        where = "" if target == ANY_TARGET else f" --target {target}"
        return f"measure it: `{self.measure}{where}`"


def judge(
    policy: GatePolicy,
    measurements: Iterable[Measurement],
    *,
    final: str,
    final_digest: str,
    targets: Sequence[str],
    now: datetime,
    against: Mapping[str, Subject] | None = None,
    measure: str = MEASURE,
) -> Verdict:
    """The verdict on the subject `final`, whose artifact has the digest `final_digest`.

    `now` is an aware time. `against` says which subject a limit's `teacher`, `student` or `release` is; a
    word it does not hold is the name of the subject itself, whose digest is then not checked. `measure` is
    the command that provides what is missing.
    Raises `UsageError` when the policy names a target that is not in `targets`.
    """
    situation = Situation(policy, final, final_digest, now, against or {}, measure)
    taken = tuple(measurements)
    return verdict_of([judge_limit(limit, taken, situation) for limit in limits(policy, targets)])


def verdict_of(results: Sequence[LimitResult]) -> Verdict:
    """The verdict over limits that were judged one by one."""
    return Verdict(outcome=_overall(results), results=tuple(results))


def judge_limit(limit: Limit, measurements: Iterable[Measurement], situation: Situation) -> LimitResult:
    """What becomes of one limit."""
    found = _matching(limit, measurements, situation)
    if not found:
        return _open(
            limit, None, f"{_name(limit)} was not measured on {limit.target}", situation.on(limit.target)
        )
    if len(found) > 1:
        reason = f"{_name(limit)} was measured {len(found)} times and the numbers differ"
        return _open(limit, found[0], reason, "keep the measurements of one session")
    refusal = _refusal(limit, found[0], situation)
    return _open(limit, found[0], *refusal) if refusal else _compare(limit, found[0])


def with_findings(
    verdict: Verdict, findings: Sequence[Finding], measurements: Iterable[Measurement], final: str
) -> Verdict:
    """The verdict with what was found beside the limits: nothing passes with a finding that counts."""
    accuracies = {m.target: m for m in measurements if m.quantity == "accuracy" and m.subject.name == final}
    found = tuple(
        LimitResult(
            limit=Limit(quantity="accuracy", target=finding.target, source=f"audit: {finding.name}"),
            outcome="fail" if finding.outcome == "fail" else "inconclusive",
            reason=finding.text,
            decide=finding.fix,
            measurement=accuracies.get(finding.target),
            finding=finding.name,
        )
        for finding in findings
        if finding.counts
    )
    if not found:
        return verdict
    results = (*verdict.results, *found)
    return Verdict(outcome=_overall(results), results=results)


def _overall(results: Sequence[LimitResult]) -> Outcome:
    outcomes = {result.outcome for result in results}
    if "fail" in outcomes:
        return "fail"
    return "pass" if outcomes == {"pass"} else "inconclusive"


def _name(limit: Limit) -> str:
    return limit.quantity + (f" against {limit.against}" if limit.against else "")


def _open(limit: Limit, measurement: Measurement | None, reason: str, decide: str) -> LimitResult:
    return LimitResult(
        limit=limit, outcome="inconclusive", reason=reason, decide=decide, measurement=measurement
    )


def _matching(limit: Limit, measurements: Iterable[Measurement], situation: Situation) -> list[Measurement]:
    """The distinct measurements of the limit's quantity, for its subject, comparison and target."""
    known = situation.against.get(limit.against or "")
    against = known.name if known else limit.against
    found: list[Measurement] = []
    for one in measurements:
        same = one.quantity == limit.quantity and one.subject.name == situation.final
        compared = (one.against.name if one.against else None) == against
        if same and compared and limit.target in (one.target, ANY_TARGET) and one not in found:
            found.append(one)
    return found[:1] if limit.quantity in EXACT and len({one.value for one in found}) == 1 else found


def _refusal(limit: Limit, taken: Measurement, situation: Situation) -> tuple[str, str] | None:
    """Why the measurement may not be judged and what would change that, or None."""
    checks = (_absent, _other_artifact, _dated, _wrong_device, _invalid, _uncertain)
    for check in checks:
        for reason in check(limit, taken, situation):
            return reason
    return None


Refusals = Iterator[tuple[str, str]]


def _absent(limit: Limit, taken: Measurement, situation: Situation) -> Refusals:
    if taken.not_measured is not None or taken.value is None:
        yield f"not measured: {taken.not_measured or 'no reason given'}", situation.again
    elif not math.isfinite(taken.value):
        yield f"the value is {taken.value}, which is not a number", situation.again


def _other_artifact(limit: Limit, taken: Measurement, situation: Situation) -> Refusals:
    if taken.subject.digest != situation.final_digest:
        yield "measured on another artifact: the digests differ", situation.again
    known = situation.against.get(limit.against or "")
    if known and taken.against and taken.against.digest != known.digest:
        yield f"compared with another {limit.against}: the digests differ", situation.again


def _dated(limit: Limit, taken: Measurement, situation: Situation) -> Refusals:
    try:
        moment = datetime.fromisoformat(taken.taken_at)
    except ValueError:
        yield f"taken at `{taken.taken_at}`, which is not a time", situation.again
        return
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    age = situation.now - moment
    if age > situation.policy.oldest:
        days = age.total_seconds() / 86400
        yield f"measured {days:.1f} days ago; older than max_age {situation.policy.max_age}", situation.again
    if age < -_CLOCK_SKEW:
        yield f"dated in the future ({taken.taken_at})", "set the clocks, then measure again"


def _wrong_device(limit: Limit, taken: Measurement, situation: Situation) -> Refusals:
    if limit.quantity in EXACT:
        return
    if emulation := taken.device.get("emulated"):
        why = f": {emulation}" if isinstance(emulation, str) else ""
        yield f"measured on an emulated device{why}", "measure on the device itself"
    for name, wanted in _required(situation.policy, taken.target).items():
        have = _fact(taken.device, name)
        if have != wanted:
            yield (
                f"the device's `{name}` is {have!r}; required: {wanted!r}",
                f"measure where `{name}` is {wanted!r}",
            )


def _required(policy: GatePolicy, target: str) -> dict[str, Any]:
    """Facts required everywhere, and those below the target's own name."""
    everywhere = {name: value for name, value in policy.required.items() if not isinstance(value, dict)}
    here = policy.required.get(target)
    return everywhere | here if isinstance(here, dict) else everywhere


def _fact(device: Mapping[str, Any], name: str) -> Any:
    """A fact by its key, or by a dotted path (`cpu.model`); None when the device does not state it."""
    if name in device:
        return device[name]
    value: Any = device
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _invalid(limit: Limit, taken: Measurement, situation: Situation) -> Refusals:
    if not taken.validity.valid:
        reasons = "; ".join(taken.validity.reasons) or "no reason given"
        yield f"invalid: {reasons}", "remove the cause, then measure again"


def _uncertain(limit: Limit, taken: Measurement, situation: Situation) -> Refusals:
    """What the interval must be: there, finite, wide, of the confidence asked for, and from samples."""
    if limit.quantity in EXACT and taken.interval is None:
        return
    interval, wanted = taken.interval, situation.policy.confidence
    if interval is None:
        yield "a single number without an interval", "measure with at least five processes or on a test set"
    elif not (math.isfinite(interval.low) and math.isfinite(interval.high) and interval.low <= interval.high):
        yield f"the interval [{interval.low}, {interval.high}] is not one", situation.again
    elif interval.level < wanted - 1e-9:
        yield f"the interval holds at {interval.level:.0%}; the gate asks for {wanted:.0%}", situation.again
    elif limit.quantity not in EXACT and (taken.n < 1 or interval.low == interval.high):
        yield "the interval has no width: nothing was sampled", "measure more processes or images"


def _compare(limit: Limit, taken: Measurement) -> LimitResult:
    low, high = _hull(taken)
    if limit.min in (None, -math.inf) and limit.max in (None, math.inf):
        return _open(limit, taken, "the limit bounds nothing", "give `min` or `max`")
    outcome = outcome_of(limit, low, high)
    if outcome == "inconclusive":
        return _open(limit, taken, "the interval straddles the limit", what_decides(limit, taken))
    side = "inside" if outcome == "pass" else "outside"
    return _closed(limit, taken, outcome, f"the whole interval is {side} the limit")


def _closed(limit: Limit, taken: Measurement, outcome: Outcome, reason: str) -> LimitResult:
    if taken.interval is None:
        reason = reason.replace("the whole interval", "the value")
    if taken.validity.reasons:
        reason += f"; {'; '.join(taken.validity.reasons)}"
    return LimitResult(limit=limit, outcome=outcome, reason=reason, measurement=taken)


def _hull(taken: Measurement) -> tuple[float, float]:
    """The interval, widened to hold the value: an estimate outside its own interval never helps to pass."""
    assert taken.value is not None
    if taken.interval is None:
        return taken.value, taken.value
    return min(taken.interval.low, taken.value), max(taken.interval.high, taken.value)


def what_decides(limit: Limit, taken: Measurement) -> str:
    """How many images or processes would settle a straddling interval if the value stays as measured."""
    kind = "processes" if limit.quantity in TIMED else "test images"
    bounds = [bound for bound in (limit.min, limit.max) if bound is not None and _straddles(taken, bound)]
    needed = [_needed(limit.quantity, taken, bound) for bound in bounds]
    times = max((one.times for one in needed), default=1.0)
    totals = [one.total for one in needed if one.total is not None]
    if times > _MOST_TIMES:
        return f"no practical number of {kind}: the value lies on the limit; move the limit or the model"
    if not totals or len(totals) < len(needed):
        return f"about {math.ceil(times * 10) / 10:g} times as many {kind}, if the value stays as measured"
    total, more = max(totals), max(totals) - (_processes(taken) or taken.n)
    return f"about {total:,} {kind} in all ({more:,} more), if the value stays as measured"


@dataclass(frozen=True)
class _Needed:
    """The sample that clears one bound: as a factor, and as a count where it is known what is counted."""

    times: float
    total: int | None = None


def _straddles(taken: Measurement, bound: float) -> bool:
    low, high = _hull(taken)
    return low <= bound <= high


def _needed(quantity: Quantity, taken: Measurement, bound: float) -> _Needed:
    """From the statistics behind the interval where the measurement states its counts, else `_by_root`."""
    now, total = _processes(taken) or taken.n, 0
    level = taken.interval.level if taken.interval else 0.95
    value = taken.value or 0.0
    lost, won = taken.detail.get("lost"), taken.detail.get("won")
    rough = _by_root(quantity, taken, bound)
    if quantity in ("accuracy", "new_errors", "agreement", "host_agreement"):
        total = images_to_decide_share(round(value * now), now, bound, level=level) or 0
    elif quantity == "accuracy_drop" and isinstance(lost, int) and isinstance(won, int):
        total = images_to_decide_drop(lost, won, now, bound, level=level) or 0
    elif quantity in TIMED and _processes(taken) and value > 0 and bound > 0:
        grows = quantity in TIMES and not taken.protocol.get("attempts")
        wanted = second_look(level) if grows else level
        total = processes_to_decide(value, _spread(taken, level), now, bound, level=wanted) or 0
    else:
        return _Needed(rough)
    return _Needed(total / now, max(total, now + 1)) if total else _Needed(math.inf)


def _by_root(quantity: Quantity, taken: Measurement, bound: float) -> float:
    """(half-width / distance to the bound) squared: half-widths shrink with the root of the sample."""
    low, high = _hull(taken)
    value = taken.value or 0.0
    distance = _distance(quantity, value, bound)
    half_width = _distance(quantity, value, high if bound >= value else low)
    return (half_width / distance) ** 2 if distance > 0 else math.inf


def _distance(quantity: Quantity, one: float, other: float) -> float:
    if quantity in TIMED and one > 0 and other > 0:
        return abs(math.log(one / other))
    return abs(one - other)


def _processes(taken: Measurement) -> int | None:
    """How many processes a time rests on, where its protocol says so."""
    stated = taken.protocol.get("processes") if taken.quantity in TIMED else None
    return stated if isinstance(stated, int) and stated > 1 else None


def _spread(taken: Measurement, level: float) -> float:
    """Standard deviation between processes of the logarithm, from the width of the Student-t interval."""
    low, high = _hull(taken)
    count = _processes(taken) or 2
    half_width = math.log(high / low) / 2 if low > 0 else math.inf
    return half_width * math.sqrt(count) / student_t_quantile((1 + level) / 2, count - 1)
