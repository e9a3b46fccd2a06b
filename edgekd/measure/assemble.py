"""Turns a session's findings into measurements: every quantity of every row, alone and against others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from edgekd.core.measurement import Interval, Measurement, Quantity, Subject, Validity
from edgekd.measure import accuracy, latency
from edgekd.measure.estimate import Estimate
from edgekd.measure.findings import Findings, Item

UNITS: dict[Quantity, str] = {
    "accuracy": "fraction",
    "accuracy_drop": "fraction",
    "agreement": "fraction",
    "macro_recall": "fraction",
    "worst_class_recall": "fraction",
    "new_errors": "fraction",
    "latency_p50_ms": "ms",
    "latency_p90_ms": "ms",
    "speedup": "ratio",
    "size_bytes": "bytes",
    "memory_bytes": "bytes",
    "energy_mj": "mJ",
}


def measurements(
    items: Sequence[Item], baselines: Sequence[str], names: tuple[str, ...], found: Findings, samples: str
) -> list[Measurement]:
    """`names` are the classes; `samples` is the session's folder as the measurements file sees it."""
    subjects = {item.subject.name: item.subject for item in items}
    made: list[Measurement] = []
    for item in items:
        assembly = _Assembly(item.subject, found, names, f"{samples}/{found.target.name}")
        made += assembly.alone()
        for baseline in baselines:
            if baseline != item.subject.name:
                made += assembly.beside(subjects[baseline])
    return made


class _Assembly:
    """The measurements of one subject."""

    def __init__(self, subject: Subject, found: Findings, names: tuple[str, ...], samples: str) -> None:
        self.subject, self.found, self.names, self.samples = subject, found, names, samples
        self.graph = found.graph_of[subject.name]
        self.reused = None if self.graph == subject.name else self.graph

    def alone(self) -> Iterator[Measurement]:
        answers, names = self.found.answers[self.subject.name], self.names
        mine = (answers.predicted, answers.labels)
        counted = accuracy.accuracy(*mine)
        counted.detail["kernels"] = dict(answers.ops)
        yield self._of_images("accuracy", counted)
        yield self._of_images("macro_recall", accuracy.macro_recall(*mine, names))
        yield self._of_images("worst_class_recall", accuracy.worst_class_recall(*mine, names))
        yield from self._times()
        yield self._timed("memory_bytes", self.found.memory[self.graph])
        yield self._measurement("size_bytes", Estimate(self.found.sizes[self.subject.name], None, 1))
        yield self._measurement("energy_mj", _energy(self.found))

    def beside(self, against: Subject) -> Iterator[Measurement]:
        """Paired with another subject: on the same images, and in the same processes."""
        mine, theirs = self.found.answers[self.subject.name], self.found.answers[against.name]
        if not np.array_equal(mine.labels, theirs.labels):
            absent = Estimate(None, None, 0, missing=f"`{against.name}` was measured on other images")
            for quantity in ("accuracy_drop", "new_errors", "agreement"):
                yield self._of_images(quantity, absent, against)
        else:
            before, after, labels = theirs.predicted, mine.predicted, mine.labels
            drop = accuracy.accuracy_drop(before, after, labels)
            yield self._of_images("accuracy_drop", drop, against)
            yield self._of_images("new_errors", accuracy.new_errors(before, after, labels), against)
            yield self._of_images("agreement", accuracy.agreement(before, after), against)
        yield self._timed("speedup", self._speedup(against), against)

    def _times(self) -> Iterator[Measurement]:
        processes, protocol = self.found.processes, self.found.protocol
        middle = latency.p50(processes, self.graph, protocol)
        middle.detail["state"] = [process["state"] for process in processes]
        yield self._timed("latency_p50_ms", middle)
        yield self._timed("latency_p90_ms", latency.p90(processes, self.graph, protocol))

    def _speedup(self, against: Subject) -> Estimate:
        theirs = self.found.graph_of[against.name]
        if theirs == self.graph:
            return _same_graph(self.found)
        return latency.speedup(self.found.processes, self.graph, theirs, self.found.protocol)

    def _of_images(
        self, quantity: Quantity, estimate: Estimate, against: Subject | None = None
    ) -> Measurement:
        """Emulation proves what is computed (though not how fast), so here it is only noted."""
        problems = (*self.found.wrong_device, *self._fallbacks(against), *estimate.problems)
        notes = (*self.found.emulated, *estimate.notes)
        made = self._measurement(quantity, estimate, against, problems, notes)
        return made.model_copy(update={"samples": f"{self.samples}/{self.subject.name}.logits.npy"})

    def _timed(self, quantity: Quantity, estimate: Estimate, against: Subject | None = None) -> Measurement:
        found = self.found
        device = (*found.wrong_device, *found.emulated)
        problems = (*device, *self._fallbacks(against), *estimate.problems)
        made = self._measurement(quantity, estimate, against, problems, estimate.notes)
        update: dict[str, Any] = {"reused_from": self.reused}
        if quantity != "memory_bytes":
            update["samples"] = f"{self.samples}/latency.json"
            processes = len(found.processes)
        else:
            processes = estimate.n
        update["protocol"] = {**made.protocol, "processes": processes}
        return made.model_copy(update=update)

    def _fallbacks(self, against: Subject | None) -> tuple[str, ...]:
        theirs = self.found.fallback(against.name) if against else ()
        return (*self.found.fallback(self.subject.name), *theirs)

    def _measurement(
        self,
        quantity: Quantity,
        estimate: Estimate,
        against: Subject | None = None,
        problems: tuple[str, ...] = (),
        notes: tuple[str, ...] = (),
    ) -> Measurement:
        return Measurement(
            quantity=quantity,
            unit=UNITS[quantity],
            value=estimate.value,
            interval=estimate.interval,
            n=estimate.n,
            subject=self.subject,
            against=against,
            target=self.found.target.name,
            device=self.found.device,
            protocol=_protocol(self.found),
            validity=Validity(valid=not problems, reasons=tuple(dict.fromkeys((*problems, *notes)))),
            not_measured=estimate.missing,
            detail=estimate.detail,
            taken_at=self.found.taken_at,
        )


def _protocol(found: Findings) -> dict[str, Any]:
    target = found.target
    return {
        **found.protocol.model_dump(mode="json"),
        "seed": found.seed,
        "threads": target.threads,
        "pinned": target.cores,
        "clock": "perf_counter_ns around the whole call",
        "retried": found.retry,
    }


def _same_graph(found: Findings) -> Estimate:
    """A graph against itself: 1 by identity, as fine as any difference is ever claimed."""
    least = latency.LEAST_SPEEDUP
    interval = Interval(low=1 - least, high=1 + least, method="same-graph")
    detail = {"faster": False, "slower": False, "same_graph": True}
    return Estimate(1.0, interval, len(found.processes), detail)


def _energy(found: Findings) -> Estimate:
    rails = list(found.device.get("energy_rails") or [])
    if rails:
        reason = f"the device has energy counters ({rails[0]}), which edgekd does not read yet"
    else:
        reason = "no energy counter is readable on this device (powercap RAPL, INA3221)"
    return Estimate(None, None, 0, missing=reason)
