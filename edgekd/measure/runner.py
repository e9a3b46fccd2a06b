"""Measures a set of artifacts on one target: accuracy, memory, then one interleaved latency session."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from edgekd.core.digest import of_data, of_file
from edgekd.core.durable import replacing, write_text
from edgekd.core.errors import ModelError, UsageError
from edgekd.core.measurement import Measurement
from edgekd.core.seed import derive
from edgekd.measure import accuracy, assemble, latency, memory
from edgekd.measure.device import Device, open_device
from edgekd.measure.findings import Answers, Emit, Findings, Item, Journal, utc_now
from edgekd.measure.protocol import Protocol
from edgekd.targets.target import Target

__all__ = ["Item", "measure_session"]

_LOGITS = "logits.npy"
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
) -> list[Measurement]:
    """Measure every item on `target`; `labels` are the class names, `baselines` items to compare with.

    Leaves `<target>/<subject>.logits.npy` (float32 `[N, C]`) and `<target>/latency.json` (raw samples) in
    `folder`. Each process's raw result goes through `journal`, so a killed session goes on where it was.
    Raises `UsageError` for items that do not fit together, `ModelError` and `DataError` for what cannot be
    run, `TargetError` when the target or the agent is lost.
    """
    _check(items, baselines, labels)
    with open_device(target) as device:
        work = _Work(items, device, protocol, len(labels), folder / target.name, journal, emit, seed)
        work.ask_all()
        work.weigh_all()
        work.time_all()
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
    for baseline in baselines:
        if baseline not in names:
            raise UsageError(f"`{baseline}` is not among what is measured", choices=names)


class _Work:
    """One session under way: asks the device and fills the findings."""

    def __init__(
        self,
        items: Sequence[Item],
        device: Device,
        protocol: Protocol,
        num_classes: int,
        folder: Path,
        journal: Journal,
        emit: Emit,
        seed: int,
    ) -> None:
        self.items, self.device, self.protocol = items, device, protocol
        self.num_classes, self.folder, self._emit = num_classes, folder, emit
        self.found = Findings(device.target, protocol, seed)
        self._journal, self._done = journal, 0
        self._graphs: dict[str, Item] = {}
        for item in items:
            self._identify(item)
        backends = {item.subject.backend for item in items}
        self._scope = of_data([device.target.facts(), protocol.model_dump(mode="json"), seed])[:12]
        runs = (len(self._graphs) + len(backends)) * protocol.memory_processes
        self._total = len(items) + runs + protocol.num_processes

    def _identify(self, item: Item) -> None:
        """Give the item's graph the name of the first subject with the same file."""
        try:
            digest = of_file(item.path)
            self.found.sizes[item.subject.name] = item.path.stat().st_size
        except OSError as error:
            raise ModelError(f"cannot read: {error.strerror or error}", where=str(item.path)) from error
        first = self._graphs.setdefault(f"{item.subject.backend}/{digest}", item)
        self.found.graph_of[item.subject.name] = first.subject.name

    def _once(self, key: str, text: str, ask: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """One process, remembered under `key`; its facts are noted, its answer returned."""
        self._emit({"event": "progress", "done": self._done, "total": self._total, "text": text})
        name = f"{self.device.target.name}/{self._scope}/{key}"
        answer: Mapping[str, Any] = self._journal(name, lambda: {**ask(), "taken_at": utc_now()})
        self._done += 1
        self.found.note(answer)
        return answer

    def finish(self) -> None:
        self._emit({"event": "progress", "done": self._total, "total": self._total, "text": "measured"})

    # --- accuracy -------------------------------------------------------------------------------------------

    def ask_all(self) -> None:
        """Every item over its whole evaluation set."""
        for item in self.items:
            self.found.answers[item.subject.name] = self._answers(item)

    def _answers(self, item: Item) -> Answers:
        name, path = item.subject.name, self.folder / f"{item.subject.name}.logits.npy"
        labels = accuracy.read_labels(item.evalset, self.num_classes)
        content = [
            of_file(item.path),
            of_file(item.evalset / "images.npy"),
            item.preprocess.model_dump(mode="json"),
        ]
        key = f"accuracy/{name}/{of_data(content)[:24]}"
        answer = self._once(key, f"accuracy of {name}", lambda: self._ask(item, path))
        if not path.is_file() or of_file(path) != answer["logits_sha256"]:
            answer = self._once(f"{key}/{utc_now()}", f"accuracy of {name}", lambda: self._ask(item, path))
        logits = accuracy.read_array(path)
        accuracy.check_logits(logits, labels, self.num_classes, name)
        profile = answer["result"]["profile"]
        return Answers(accuracy.predictions(logits), labels, profile["unexpected"], profile["ops"])

    def _ask(self, item: Item, path: Path) -> dict[str, Any]:
        entry = self._entry(item)
        answer = self.device.call("accuracy", [entry], out=_LOGITS, **self._common())
        with replacing(path) as temporary:
            self.device.pull(_LOGITS, temporary)
        return {**answer, "logits_sha256": of_file(path)}

    # --- memory ---------------------------------------------------------------------------------------------

    def weigh_all(self) -> None:
        """Every distinct graph in fresh processes, and the runtime's own need beside."""
        baselines = {
            backend: self._weigh(f"baseline-{backend}", partial(self.device.baseline, backend))
            for backend in sorted({item.subject.backend for item in self.items})
        }
        for item in self._graphs.values():
            processes = self._weigh(item.subject.name, partial(self._entry, item, images=False))
            self.found.memory[item.subject.name] = memory.peak(processes, baselines[item.subject.backend])

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
        self._emit({"event": "retry", "target": self.device.target.name, "reason": "; ".join(reasons)})
        self._time(count, pause_s)

    def _time(self, first: int, pause_s: float = 0.0) -> None:
        for number in range(first, first + self.protocol.num_processes):
            text = f"latency, process {number + 1}"
            cool = pause_s if number == first else 0.0
            answer = self._once(f"latency/{number}", text, partial(self._ask_times, number, cool))
            self.found.processes.append(answer["result"])

    def _ask_times(self, number: int, cool_s: float) -> dict[str, Any]:
        time.sleep(cool_s)
        entries = [self._entry(item) for item in self._graphs.values()]
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

    def _common(self) -> dict[str, Any]:
        return self.protocol.request()

    def _entry(self, item: Item, images: bool = True) -> dict[str, Any]:
        return self.device.artifact(
            item.subject.name,
            item.path,
            backend=item.subject.backend,
            images=item.evalset / "images.npy" if images else None,
            preprocess=item.preprocess,
        )


def _write_samples(path: Path, found: Findings) -> None:
    """Raw samples by process and row, in nanoseconds; a row that shares a graph points to whose it is."""
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
