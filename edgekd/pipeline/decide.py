"""Measures as many more processes as open limits on times need, once, and pools them with the session.

Looking again whenever a verdict is open, until it passes, would pass too much. So it happens once, up to a
maximum; all samples of all attempts count; and the second look is stricter than the first
(docs/decisions/0020): of artifacts that lie exactly on a limit it passes 2.9 % where a single look passes
2.5 %, and the same interval twice would pass 5.4 %.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgekd.core.digest import of_data, of_file
from edgekd.core.errors import UsageError
from edgekd.core.events import Emit
from edgekd.core.measurement import Measurement, read_measurements, read_sealed, write_measurements
from edgekd.core.run_record import MEASUREMENTS, SESSION
from edgekd.core.seed import derive
from edgekd.core.verdict import LimitResult
from edgekd.measure import latency, statistics
from edgekd.measure.answers import entry_of, open_sets
from edgekd.measure.decidability import processes_to_decide, second_look
from edgekd.measure.device import Device, open_device
from edgekd.measure.findings import Item, utc_now
from edgekd.measure.runner import LATENCY
from edgekd.pipeline.gate import TIMES
from edgekd.pipeline.pooling import Samples
from edgekd.pipeline.session import backends_of
from edgekd.pipeline.surroundings import STABLE_FACTS
from edgekd.store.store import Store
from edgekd.targets.target import Target

_AGAIN = "`edgekd measure` starts a new session"


@dataclass(frozen=True)
class Judged:
    """A session that was judged: its folder, what it measured, and what became of the limits.

    `folder` holds measurements.jsonl and session/<target>/latency.json; `seed` is that of the session, and
    `confidence` that of the gate.
    """

    folder: Path
    items: Sequence[Item]
    targets: Sequence[Target]
    seed: int
    results: Sequence[LimitResult]
    confidence: float = statistics.LEVEL


@dataclass(frozen=True)
class Decision:
    """`lines` say for every open limit what was measured, or why nothing was."""

    lines: tuple[str, ...]
    measured: bool


def decide(judged: Judged, store: Store, emit: Emit) -> Decision:
    """Measure what the open limits on times need, pool it with the session and rewrite its measurements.

    Interrupted, the same call goes on with the processes that are finished. Raises `UsageError` when a
    device or an artifact is no longer that of the session, `TargetError` when a device is lost.
    """
    if any(result.outcome == "fail" for result in judged.results):
        return Decision(("a limit fails; more processes would not change the verdict",), False)
    opened = [result for result in judged.results if result.outcome == "inconclusive"]
    lines = [_beyond(result) for result in opened if not _is_timed(result)]
    measured = False
    for target in judged.targets:
        here = [result for result in opened if _is_timed(result) and result.limit.target == target.name]
        attempt = _Attempt(judged, target, here, store, emit)
        lines += list(attempt.lines())
        measured = measured or attempt.measured
    return Decision(tuple(lines), measured)


def _is_timed(result: LimitResult) -> bool:
    return result.limit.quantity in TIMES and result.finding is None


def _beyond(result: LimitResult) -> str:
    """What would decide a limit that no further process decides."""
    if result.finding is not None:
        return f"{result.finding}: {result.decide or result.reason}"
    text = f"{_name(result)}: {result.decide or result.reason}"
    if result.limit.quantity in ("memory_bytes", "energy_mj", "size_bytes") or not result.measurement:
        return text
    return f"{text}; the test split has {result.measurement.n:,} images, and more cannot be conjured"


def _name(result: LimitResult) -> str:
    limit = result.limit
    against = f" against {limit.against}" if limit.against else ""
    return f"{limit.quantity}{against} on {limit.target}"


class _Attempt:
    """The one further attempt on one target."""

    def __init__(
        self, judged: Judged, target: Target, opened: Sequence[LimitResult], store: Store, emit: Emit
    ) -> None:
        self.judged, self.target, self.opened, self.store, self.emit = judged, target, opened, store, emit
        self.measured = False
        self._path = judged.folder / MEASUREMENTS
        self._level = second_look(max(judged.confidence, statistics.LEVEL))

    def lines(self) -> Iterator[str]:
        """Lines about every open limit; what can be measured is measured at the end."""
        taken = [m for result in self.opened if (m := result.measurement) and m.value is not None]
        if not taken:
            yield from (f"{_name(result)}: {_as_judged(result)}" for result in self.opened)
            return
        raw = self.judged.folder / SESSION / self.target.name / LATENCY
        self.samples = Samples(raw, taken[0])
        if refusal := self._refusal():
            yield from (f"{_name(result)}: nothing more is measured: {refusal}" for result in self.opened)
            return
        needed = {_name(result): self._needed(result) for result in self.opened}
        yield from (f"{name}: {why}" for name, why in needed.items() if isinstance(why, str))
        totals = {name: total for name, total in needed.items() if isinstance(total, int)}
        if totals:
            yield from self._told(totals)
            self._measure(totals)

    def _total(self, totals: Mapping[str, int]) -> int:
        return min(max(totals.values()), self.samples.protocol.most_processes)

    def _told(self, totals: Mapping[str, int]) -> Iterator[str]:
        have, cap = len(self.samples.processes), self.samples.protocol.most_processes
        for name, count in totals.items():
            capped = f" (a session has {cap} at most)" if count > cap else ""
            more = self._total(totals) - have
            yield f"{name}: about {count:,} processes would decide; {have} are there, {more} more now{capped}"

    # --- what is needed -------------------------------------------------------------------------------------

    def _refusal(self) -> str | None:
        have, protocol = len(self.samples.processes), self.samples.protocol
        if len(self.samples.attempts) > 1:
            last = self.samples.attempts[-1]
            return (
                f"{last['processes']} processes were added at {last['at']} already ({last['reason']}), and "
                f"drawing until a limit passes would pass too much; {_AGAIN}"
            )
        if protocol.weakness is not None:
            return f"{protocol.weakness}; {_AGAIN}, with `--protocol quick`"
        if have >= protocol.most_processes:
            return f"the session has {have} processes, the most that one may have; {_AGAIN}"
        return None

    def _needed(self, result: LimitResult) -> int | str:
        """Processes in all that would decide a limit, or why none would."""
        taken = result.measurement
        if taken is None or taken.value is None:
            return _as_judged(result)
        now = self.samples.estimate(taken, self.samples.processes)
        if now is None or now.value is None or self.samples.others(taken)[0]:
            return _as_judged(result)
        cures = [self._cure(problem, taken) for problem in now.problems]
        if None in cures:
            return f"{result.reason}; pooling does not cure that; {_AGAIN}, at a quieter time"
        bounds = [bound for bound in (result.limit.min, result.limit.max) if bound is not None]
        totals = [self._to_clear(taken, now.value, bound) for bound in bounds]
        if not bounds or None in totals:
            return (
                "no practical number of processes: the value lies on the limit; move the limit or the model"
            )
        known = [one for one in (*cures, *totals) if one is not None]
        return max(len(self.samples.processes) + 1, *known)

    def _cure(self, problem: str, taken: Measurement) -> int | None:
        """Processes in all that cure a problem of the times, or None if pooling does not."""
        if problem.startswith(("too few samples", "too short")):
            return len(self.samples.processes) + self.samples.protocol.num_processes
        if taken.quantity != "speedup" or not problem.startswith("noise: the ratio"):
            return None
        parts = self.samples.parts(taken)
        value, _ = statistics.mean_of_logs(parts)
        return processes_to_decide(1 + latency.widest_half_width(value), _spread(parts), len(parts), 1.0)

    def _to_clear(self, taken: Measurement, value: float, bound: float) -> int | None:
        """Processes in all at which the interval of the second look would be off the bound."""
        parts = self.samples.parts(taken)
        middle, _ = statistics.mean_of_logs(parts)
        if (middle > bound) != (value > bound):
            return None  # the estimate and the mean of its processes lie on two sides of the bound
        nearest = min((middle, value), key=lambda one: abs(math.log(one / bound)))
        return processes_to_decide(nearest, _spread(parts), len(parts), bound, level=self._level)

    # --- measuring ------------------------------------------------------------------------------------------

    def _measure(self, totals: Mapping[str, int]) -> None:
        total = self._total(totals)
        key = of_data([str(self.judged.folder.resolve()), of_file(self._path), self.target.name, total])
        work = f"decide-{key[:24]}"
        with self.store.lock(work):
            journal = self.store.journal(work)
            with (
                open_sets(self.judged.items, self.samples.protocol) as sets,
                open_device(self.target) as device,
            ):
                self._check(device)
                entries = [entry_of(device, item, sets.of(item).some()) for item in self._items()]
                numbers = range(len(self.samples.processes), total)
                more = [
                    journal(f"latency/{n}", partial(self._ask, device, entries, n, total)) for n in numbers
                ]
            why = ", ".join(f"{name} needs about {count:,}" for name, count in totals.items())
            added = {"processes": len(more), "at": utc_now(), "reason": f"to decide: {why}"}
            self._rewrite([*self.samples.processes, *more], added)
            self.store.discard_work(work)
        self.measured = True

    def _ask(
        self, device: Device, entries: Sequence[Mapping[str, Any]], number: int, total: int
    ) -> dict[str, Any]:
        have = len(self.samples.processes)
        text = f"latency on {self.target.name}, process {number + 1}"
        done, of = number - have, total - have
        self.emit({"event": "progress", "step": "decide", "done": done, "total": of, "text": text})
        session = derive(self.judged.seed, "session", self.target.name)
        seed = derive(session, "latency", self.target.name, number) % 2**32
        answer = device.call("latency", entries, seed=seed, **self.samples.protocol.request())
        return dict(answer["result"])

    def _items(self) -> list[Item]:
        """What the session timed, still the same files."""
        items = {item.subject.name: item for item in self.judged.items}
        subjects = {m.subject.name: m.subject for m in read_measurements(self._path)}
        for name in self.samples.graphs:
            if name not in items or of_file(items[name].path) != subjects[name].digest:
                raise UsageError(
                    f"`{name}` is no longer the artifact that was measured",
                    where=str(self.judged.folder),
                    fix="measure again: `edgekd measure`",
                )
        return [items[name] for name in self.samples.graphs]

    def _check(self, device: Device) -> None:
        """Raises `UsageError` unless this is the session's device with its runtime: samples are pooled."""
        runtimes = [device.runtime(name) for name in backends_of(self._items())]
        answer = device.call("facts", runtimes=runtimes, deadline_s=60)
        now = {**answer["facts"], "target": self.target.facts(), "versions": answer["versions"]}
        then = next(m.device for m in read_measurements(self._path) if self._is_mine(m))
        changed = [name for name in STABLE_FACTS if _plain(now.get(name)) != _plain(then.get(name))]
        if changed:
            told = "; ".join(f"`{name}` was {then.get(name)}, is {now.get(name)}" for name in changed)
            raise UsageError(
                f"the device is not as it was in the session, so times of both cannot be pooled: {told}",
                where=self.target.name,
                fix="measure again: `edgekd measure`",
            )

    def _rewrite(self, pool: Sequence[latency.Process], added: Mapping[str, Any]) -> None:
        """The raw samples first: killed between, the measurements still rest on the first of them."""
        self.samples.write(pool)
        rewritten = [
            self.samples.pooled(one, pool, added, self._level_of(one)) if self._is_mine(one) else one
            for one in read_sealed(self._path)
        ]
        write_measurements(self._path, rewritten)

    def _is_mine(self, one: Measurement) -> bool:
        return one.target == self.target.name and one.quantity in TIMES and one.value is not None

    def _level_of(self, one: Measurement) -> float:
        """Stricter where a limit was open; what was decided is only made more precise."""
        return self._level if any(one == result.measurement for result in self.opened) else statistics.LEVEL


def _as_judged(result: LimitResult) -> str:
    return "; ".join(filter(None, (result.reason, result.decide)))


def _spread(parts: Sequence[float]) -> float:
    return statistics.sd([math.log(part) for part in parts])


def _plain(value: Any) -> str:
    """Facts that were written and read compare with those that were not."""
    return json.dumps(value, sort_keys=True, default=str)
