"""Measures a set of artifacts on one target: answers, memory, one interleaved latency session, energy."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.backends.catalogue import BACKENDS
from edgekd.core.classes import places
from edgekd.core.digest import of_data, of_file
from edgekd.core.durable import write_text
from edgekd.core.errors import AbsentRuntimeError, DataError, ModelError, TargetError, UsageError
from edgekd.core.measurement import Measurement
from edgekd.core.seed import derive
from edgekd.measure import accuracy, assemble, energy, latency, memory
from edgekd.measure.answers import Asked, Sets, entry_of, open_sets
from edgekd.measure.device import Device, open_device
from edgekd.measure.findings import Answers, Emit, Findings, HostAnswers, Item, Journal, utc_now
from edgekd.measure.protocol import Protocol
from edgekd.measure.reference import ELSEWHERE, HOST, logits_here, read_reference
from edgekd.targets.local import LocalTarget
from edgekd.targets.target import Target

__all__ = ["Item", "measure_session"]

LATENCY = "latency.json"


def measure_session(
    items: Sequence[Item],
    *,
    target: Target,
    protocol: Protocol,
    baselines: Sequence[str],
    labels: Sequence[str],
    folder: Path,
    journal: Journal,
    emit: Emit,
    seed: int,
    reference: Path | None = None,
) -> list[Measurement]:
    """Measure every item on `target`; `labels` are the data's classes, `baselines` items to compare with.

    Leaves `<target>/<subject>.logits.npy` (float32 `[N, C]`) and `<target>/latency.json` (raw samples) in
    `folder`. Each process's raw result goes through `journal`, so a killed session goes on where it was; so
    does one that lost its target, part by part of the images. An emulated device is asked for answers only:
    its times and its memory are not those of what it imitates. Of a target that is another machine, the same
    artifacts answer here, too, unless `reference` holds what they answered where they were made. Of an item
    whose runtime is not on the target, all but the size is not measured.
    Raises `UsageError` for items that do not fit together, `ModelError` and `DataError` for what cannot be
    run, `TargetError` when the target or the agent is lost.
    """
    _check(items, baselines, labels)
    with open_sets(items, protocol) as sets:
        with open_device(target) as device:
            work = _Work(items, sets, device, protocol, labels, folder / target.name, journal, emit, seed)
            work.ask_all()
            if work.items and not work.found.emulated:
                work.weigh_all()
                work.time_all()
                work.power_all()
        if reference is not None:
            work.take_host(reference)
        elif target.kind != "local":
            work.ask_host()
        work.finish()
    _write_samples(work.folder / LATENCY, work.found)
    return assemble.measurements(items, baselines, tuple(labels), work.found, folder.name)


def _check(items: Sequence[Item], baselines: Sequence[str], labels: Sequence[str]) -> None:
    names = [item.subject.name for item in items]
    if not items or not labels:
        raise UsageError("a session needs at least one artifact and one class")
    for name in names:
        if names.count(name) > 1 or Path(name).name != name or name.startswith("."):
            raise UsageError(f"`{name}` cannot name a row: it names a file and must be unique")
    for item in items:
        places(item.labels, labels, whose=f"`{item.subject.name}`'s")
    for baseline in baselines:
        if baseline not in names:
            raise UsageError(f"`{baseline}` is not among what is measured", choices=names)


class _Work:
    """One session under way: asks the device and fills the findings."""

    def __init__(
        self,
        items: Sequence[Item],
        sets: Sets,
        device: Device,
        protocol: Protocol,
        labels: Sequence[str],
        folder: Path,
        journal: Journal,
        emit: Emit,
        seed: int,
    ) -> None:
        self.items, self.sets, self.device, self.protocol = items, sets, device, protocol
        self.labels, self.folder, self._emit = tuple(labels), folder, emit
        self.found = Findings(device.target, protocol, seed)
        self._journal, self._done = journal, 0
        self._graphs: dict[str, Item] = {}
        for item in items:
            self._identify(item)
        backends = {item.subject.backend for item in items}
        self._scope = of_data([device.target.facts(), protocol.model_dump(mode="json"), seed])[:12]
        runs = (len(self._graphs) + len(backends)) * protocol.memory_processes
        asked = sets.num_answers * (1 if device.target.kind == "local" else 2)
        self._total = asked + runs + protocol.num_processes

    def _identify(self, item: Item) -> None:
        """Give the item's graph the name of the first subject with the same file."""
        try:
            digest = of_file(item.path)
            self.found.sizes[item.subject.name] = BACKENDS.load(item.subject.backend).size_of(item.path)
        except OSError as error:
            raise ModelError(f"cannot read: {error.strerror or error}", where=str(item.path)) from error
        first = self._graphs.setdefault(f"{item.subject.backend}/{digest}", item)
        self.found.graph_of[item.subject.name] = first.subject.name

    def _once(self, key: str, text: str, ask: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """One process on the target, remembered under `key`; its facts are noted, its answer returned."""
        answer = self._remembered(key, text, ask)
        self.found.note(answer)
        return answer

    def _remembered(self, key: str, text: str, ask: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        self._emit({"event": "progress", "done": self._done, "total": self._total, "text": text})
        name = f"{self.device.target.name}/{self._scope}/{key}"
        answer: Mapping[str, Any] = self._journal(name, lambda: {**ask(), "taken_at": utc_now()})
        self._done += 1
        return answer

    def finish(self) -> None:
        self._emit({"event": "progress", "done": self._total, "total": self._total, "text": "measured"})

    # --- answers --------------------------------------------------------------------------------------------

    def ask_all(self) -> None:
        """Every item over its whole evaluation set."""
        asked = Asked(self.sets, self.device, self.protocol, self.folder, self._once)
        asked.ask("accuracy", "accuracy")
        self._leave_out(asked.absent)
        for item in self.items:
            self.found.answers[item.subject.name] = self._answers(item, asked)

    def _leave_out(self, absent: Mapping[str, str]) -> None:
        """These items, by name; where none is left, the device itself has not told what it is yet."""
        self.found.absent.update(absent)
        self.items = [item for item in self.items if item.subject.name not in self.found.absent]
        self._graphs = {key: item for key, item in self._graphs.items() if item in self.items}
        if not self.items:
            self.found.note({**self.device.call("facts"), "taken_at": utc_now()})

    def _answers(self, item: Item, asked: Asked) -> Answers:
        labels, logits = accuracy.read_labels(item.evalset, len(self.labels)), asked.logits(item)
        own, profile = item.labels or self.labels, asked.profile(item)
        accuracy.check_logits(logits, labels, len(own), item.subject.name)
        return Answers(
            accuracy.predictions(logits, own, self.labels),
            labels,
            profile["unexpected"],
            profile["ops"],
            profile.get("precisions", {}),
            {key: profile[key] for key in ("engine", "untold") if key in profile},
            len(self.labels) - len(own),
        )

    def ask_host(self) -> None:
        """The same artifacts on this machine: what differs, the target computes differently."""
        try:
            with open_device(LocalTarget(name=HOST)) as host:
                for item in self.items:
                    self.found.host[item.subject.name] = self._host_answers(item, host)
        except TargetError as error:
            for item in self.items:
                self.found.host.setdefault(item.subject.name, f"this machine cannot be asked: {error.what}")

    def _host_answers(self, item: Item, host: Device) -> HostAnswers | str:
        said: list[Mapping[str, Any]] = []

        def once(key: str, text: str, ask: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
            said.append(self._remembered(key, text, ask))
            return said[-1]

        try:
            here = logits_here(item, host, self.protocol, self.folder / HOST, once)
        except (ModelError, DataError, AbsentRuntimeError) as error:
            return f"this machine cannot run it: {error.what}"
        return self._compared(item, here, {**said[0]["facts"], "versions": said[0]["versions"]})

    def take_host(self, folder: Path) -> None:
        """The same from what another machine left in `folder`. Raises `DataError` and `ModelError`."""
        kept = read_reference(folder)
        for item in self.items:
            name = item.subject.name
            if name in kept.absent:
                self.found.host[name] = f"{ELSEWHERE} cannot run it: {kept.absent[name]}"
                continue
            logits = accuracy.read_array(folder / f"{name}.logits.npy")
            self.found.host[name] = self._compared(item, logits, kept.facts, ELSEWHERE)

    def _compared(
        self, item: Item, here: accuracy.Logits, facts: Mapping[str, Any], called: str = "this machine"
    ) -> HostAnswers:
        own, name = item.labels or self.labels, item.subject.name
        accuracy.check_logits(here, self.found.answers[name].labels, len(own), name)
        there = accuracy.read_array(self._logits_path(item))
        predicted = accuracy.predictions(here, own, self.labels)
        return HostAnswers(predicted, _apart(here, there), facts, called)

    def _logits_path(self, item: Item) -> Path:
        return self.folder / f"{item.subject.name}.logits.npy"

    # --- memory ---------------------------------------------------------------------------------------------

    def weigh_all(self) -> None:
        """Every distinct graph in fresh processes of its own, and the runtime's own need beside."""
        baselines = {
            backend: self._weigh(f"baseline-{backend}", partial(self.device.baseline, backend))
            for backend in sorted({item.subject.backend for item in self.items})
        }
        for item in self._graphs.values():
            processes = self._weigh(item.subject.name, partial(entry_of, self.device, item))
            self.found.memory[item.subject.name] = memory.peak(processes, baselines[item.subject.backend])
            self.found.cold_start[item.subject.name] = memory.cold_start(processes)

    def _weigh(self, name: str, entry: Callable[[], dict[str, Any]]) -> list[memory.Process]:
        def ask() -> dict[str, Any]:
            return self.device.call("memory", [entry()], runs=self.protocol.memory_runs, **self._common())

        count = self.protocol.memory_processes
        return [self._once(f"memory/{name}/{i}", f"memory of {name}", ask)["result"] for i in range(count)]

    # --- latency --------------------------------------------------------------------------------------------

    def time_all(self) -> None:
        """All distinct graphs interleaved in fresh processes; once more, pooled, if that was too noisy.

        While a speed-up is still too noisy to be judged, further processes are added up to a fixed maximum:
        the rule looks at the interval's width, never at the value, so it does not favor an outcome.
        """
        self._time(0)
        self._retry()
        count = self.protocol.num_processes
        while self.protocol.retry and self._ratio_noise():
            if len(self.found.processes) + count > self.protocol.most_processes:
                return
            self._total += count
            self._time(len(self.found.processes))

    def _retry(self) -> None:
        reasons = self._noise()
        if not reasons or not self.protocol.retry:
            return
        count, pause_s = self.protocol.num_processes, self.protocol.cooldown_s
        self._total += count
        self.found.retry = {"reasons": reasons, "cooldown_s": pause_s, "processes_before": count}
        text = f"too noisy, so timed once more: {latency.in_short(reasons)}"
        self._emit({"event": "retry", "target": self.device.target.name, "reason": text})
        self._time(count, pause_s)

    def _time(self, first: int, pause_s: float = 0.0) -> None:
        for number in range(first, first + self.protocol.num_processes):
            text = f"latency, process {number + 1}"
            cool = pause_s if number == first else 0.0
            answer = self._once(f"latency/{number}", text, partial(self._ask_times, number, cool))
            self.found.processes.append(answer["result"])

    def _ask_times(self, number: int, cool_s: float) -> dict[str, Any]:
        time.sleep(cool_s)
        entries = self._timed_entries()
        seed = derive(self.found.seed, "latency", self.device.target.name, number) % 2**32
        return self.device.call("latency", entries, seed=seed, **self._common())

    def _noise(self) -> list[str]:
        """Why the times may not be judged and a repetition could help."""
        names, processes = [item.subject.name for item in self._graphs.values()], self.found.processes
        reasons = [f"{name}: {reason}" for name in names for reason in latency.noise(processes, name)]
        return reasons + self._ratio_noise()

    def _ratio_noise(self) -> list[str]:
        names, processes = [item.subject.name for item in self._graphs.values()], self.found.processes
        reasons: list[str] = []
        for one, other in itertools.combinations(names, 2):
            problems = latency.speedup(processes, one, other, self.protocol).problems
            reasons += [f"{one} / {other}: {problem}" for problem in problems if problem.startswith("noise")]
        return reasons

    # --- energy ---------------------------------------------------------------------------------------------

    def power_all(self) -> None:
        """All distinct graphs one after another, idling before and after, where power can be read."""
        source = energy.source_of(self.device.target, self.found.facts[0], self.protocol)
        try:
            if isinstance(source, energy.Source):
                self._power(source)
        except DataError as error:  # of a meter's file: no other measurement depends on it
            source = str(error)
        self.found.energy_source = source

    def _power(self, source: energy.Source) -> None:
        self._total += self.protocol.energy_processes
        for number in range(self.protocol.energy_processes):
            key, text = f"energy/{number}", f"energy by {source.name}"
            self.found.energy.append(self._once(key, text, partial(self._ask_power, source))["result"])

    def _ask_power(self, source: energy.Source) -> dict[str, Any]:
        asked = time.time()
        answer = self.device.call(
            "energy",
            self._timed_entries(),
            seconds=self.protocol.energy_s,
            period_s=energy.PERIOD_S,
            external=source.meter is not None,
            seed=self.found.seed % 2**32,
            **self._common(),
        )
        if source.meter is None:
            return answer
        return {**answer, "result": energy.with_meter(answer["result"], source.meter, asked, time.time())}

    def _common(self) -> dict[str, Any]:
        return self.protocol.request()

    def _timed_entries(self) -> list[dict[str, Any]]:
        return [entry_of(self.device, item, self.sets.of(item).some()) for item in self._graphs.values()]


def _apart(here: accuracy.Logits, there: accuracy.Logits) -> float:
    """Largest difference of a logit, relative to the largest; 0 where nothing finite can be compared."""
    finite = np.isfinite(here) & np.isfinite(there)
    largest = float(np.abs(there[finite]).max(initial=0.0))
    return float(np.abs(here[finite] - there[finite]).max(initial=0.0)) / largest if largest else 0.0


def _write_samples(path: Path, found: Findings) -> None:
    """Raw samples by process and row, in nanoseconds; a row that shares a graph points to whose it is."""
    if not found.processes:
        path.unlink(missing_ok=True)
        return
    processes = [
        {"rows": process["graphs"], "state": process["state"], "span_s": process["span_s"]}
        for process in found.processes
    ]
    reused = {name: graph for name, graph in found.graph_of.items() if name != graph}
    content = {
        "schema_version": 1,
        "target": found.target.name,
        "unit": "ns",
        "block": found.protocol.block,
        "processes": processes,
        "reused": reused,
    }
    write_text(path, json.dumps(content, separators=(",", ":"), allow_nan=False) + "\n")
