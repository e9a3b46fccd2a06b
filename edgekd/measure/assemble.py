"""Turns a session's findings into measurements: every quantity of every row, alone and against others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edgekd.core.measurement import Interval, Measurement, Quantity, Subject, Validity
from edgekd.measure import accuracy, energy, latency
from edgekd.measure.estimate import Estimate
from edgekd.measure.findings import Findings, Item
from edgekd.measure.host_agreement import host_agreement

UNITS: dict[Quantity, str] = {
    "accuracy": "fraction",
    "accuracy_drop": "fraction",
    "agreement": "fraction",
    "host_agreement": "fraction",
    "macro_recall": "fraction",
    "worst_class_recall": "fraction",
    "new_errors": "fraction",
    "latency_p50_ms": "ms",
    "latency_p90_ms": "ms",
    "speedup": "ratio",
    "throughput_ips": "images/s",
    "cold_start_ms": "ms",
    "sustained_ratio": "ratio",
    "size_bytes": "bytes",
    "memory_bytes": "bytes",
    "energy_mj": "mJ",
}


_ANSWERED: tuple[Quantity, ...] = ("accuracy", "macro_recall", "worst_class_recall")
_PAIRED: tuple[Quantity, ...] = ("accuracy_drop", "new_errors", "agreement")


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
        if self._absent() is None:
            yield from self._answered()
        else:
            for quantity in _ANSWERED:
                yield self._of_images(quantity, self._missing())
        yield from self._times()
        yield self._measurement("size_bytes", Estimate(self.found.sizes[self.subject.name], None, 1))

    def _answered(self) -> Iterator[Measurement]:
        answers, names = self.found.answers[self.subject.name], self.names
        mine = (answers.predicted, answers.labels)
        counted = accuracy.accuracy(*mine)
        counted.detail["kernels"] = dict(answers.ops)
        counted.detail["precisions"] = dict(answers.precisions)
        counted.detail["unexpected"] = list(answers.unexpected)
        counted.detail.update(answers.engine)
        counted.detail["predictions_sha256"] = accuracy.digest(answers.predicted)
        compared = self._compared_with_host()
        remarks = (*self._lacking(self.subject), *(compared.notes if compared else ()))
        yield self._of_images("accuracy", counted, remarks=remarks)
        yield self._of_images("macro_recall", accuracy.macro_recall(*mine, names))
        yield self._of_images("worst_class_recall", accuracy.worst_class_recall(*mine, names))
        if compared is not None:
            yield self._of_images("host_agreement", compared)

    def beside(self, against: Subject) -> Iterator[Measurement]:
        """Paired with another subject: on the same images, and in the same processes."""
        if self._absent(against) is None:
            yield from self._paired(against)
        else:
            for quantity in _PAIRED:
                yield self._of_images(quantity, self._missing(against), against)
        yield self._timed("speedup", lambda: self._speedup(against), against)

    def _paired(self, against: Subject) -> Iterator[Measurement]:
        mine, theirs = self.found.answers[self.subject.name], self.found.answers[against.name]
        if not np.array_equal(mine.labels, theirs.labels):
            absent = Estimate(None, None, 0, missing=f"`{against.name}` was measured on other images")
            for quantity in _PAIRED:
                yield self._of_images(quantity, absent, against)
        else:
            before, after, labels = theirs.predicted, mine.predicted, mine.labels
            easy = self._lacking(against)
            drop, errors = (
                replace(found, problems=(*found.problems, *easy))
                for found in (
                    accuracy.accuracy_drop(before, after, labels),
                    accuracy.new_errors(before, after, labels),
                )
            )
            yield self._of_images("accuracy_drop", drop, against)
            yield self._of_images("new_errors", errors, against)
            yield self._of_images("agreement", accuracy.agreement(before, after), against)

    def _absent(self, against: Subject | None = None) -> str | None:
        """Why a subject, or what it is compared with, was not run."""
        for subject in (self.subject, against):
            if subject is not None and subject.name in self.found.absent:
                reason = self.found.absent[subject.name]
                return f"the runtime of `{subject.name}` cannot run on this device: {reason}"
        return None

    def _missing(self, against: Subject | None = None) -> Estimate:
        return Estimate(None, None, 0, missing=self._absent(against))

    def _compared_with_host(self) -> Estimate | None:
        """How far the target answers as this machine does; None where the target is this machine."""
        host = self.found.host.get(self.subject.name)
        if host is None:
            return None
        if isinstance(host, str):
            return Estimate(None, None, 0, missing=host)
        answers = self.found.answers[self.subject.name]
        return host_agreement(host, answers.predicted, self.found.device)

    def _times(self) -> Iterator[Measurement]:
        """All that an emulated device has none of."""
        found, graph = self.found, self.graph
        yield self._timed("latency_p50_ms", self._middle)
        yield self._timed("latency_p90_ms", lambda: latency.p90(found.processes, graph, found.protocol))
        yield self._timed("cold_start_ms", lambda: found.cold_start[graph])
        yield self._timed("memory_bytes", lambda: found.memory[graph])
        yield self._timed("energy_mj", self._energy)

    def _middle(self) -> Estimate:
        middle = latency.p50(self.found.processes, self.graph, self.found.protocol)
        middle.detail["state"] = [process["state"] for process in self.found.processes]
        return middle

    def _energy(self) -> Estimate:
        source = self.found.energy_source
        if isinstance(source, str):
            return Estimate(None, None, 0, missing=source)
        return energy.per_inference(self.found.energy, self.graph, source)

    def _speedup(self, against: Subject) -> Estimate:
        theirs = self.found.graph_of[against.name]
        if theirs == self.graph:
            return _same_graph(self.found)
        return latency.speedup(self.found.processes, self.graph, theirs, self.found.protocol)

    def _of_images(
        self,
        quantity: Quantity,
        estimate: Estimate,
        against: Subject | None = None,
        remarks: tuple[str, ...] = (),
    ) -> Measurement:
        """Emulation proves what is computed (though not how fast), so here it is only noted."""
        problems = (*self.found.wrong_device, *self._fallbacks(against), *estimate.problems)
        notes = (*self.found.emulated, *estimate.notes, *remarks)
        made = self._measurement(quantity, estimate, against, problems, notes)
        if estimate.missing is not None and self.subject.name in self.found.absent:
            return made
        return made.model_copy(update={"samples": f"{self.samples}/{self.subject.name}.logits.npy"})

    def _timed(
        self, quantity: Quantity, estimated: Callable[[], Estimate], against: Subject | None = None
    ) -> Measurement:
        """A number of the device itself: emulated, it has none."""
        found = self.found
        if self._absent(against) is not None:
            estimate = self._missing(against)
        elif found.emulated:
            estimate = Estimate(None, None, 0, missing=found.emulated[0])
        else:
            estimate = estimated()
        device = (*found.wrong_device, *found.emulated)
        problems = (*device, *self._fallbacks(against), *estimate.problems)
        made = self._measurement(quantity, estimate, against, problems, estimate.notes)
        update: dict[str, Any] = {"reused_from": None if estimate.missing else self.reused}
        if quantity in ("memory_bytes", "cold_start_ms"):
            processes = estimate.n
        elif quantity == "energy_mj":
            processes = len(found.energy)
        else:
            update["samples"] = f"{self.samples}/latency.json" if found.processes else None
            processes = len(found.processes)
        update["protocol"] = {**made.protocol, "processes": processes}
        return made.model_copy(update=update)

    def _fallbacks(self, against: Subject | None) -> tuple[str, ...]:
        theirs = self.found.fallback(against.name) if against else ()
        return (*self.found.fallback(self.subject.name), *theirs)

    def _lacking(self, subject: Subject) -> tuple[str, ...]:
        """Why a subject does worse than it might; whoever is compared with it looks better for that."""
        missing, total = self.found.answers[subject.name].unknown, len(self.names)
        if not missing:
            return ()
        known = f"knows {total - missing} of {total} classes"
        return (f"`{subject.name}` {known} and gets no image of the others right",)

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
