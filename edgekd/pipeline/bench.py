"""Times files of any backend side by side on one target, and says which is faster or that it cannot tell."""

from __future__ import annotations

import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgekd.backends.catalogue import BACKENDS
from edgekd.core.digest import of_data, of_file
from edgekd.core.durable import disk_error
from edgekd.core.errors import TargetError, UsageError
from edgekd.core.events import Emit
from edgekd.core.measurement import Measurement, Quantity, Validity
from edgekd.core.seed import derive
from edgekd.core.verdict import EXIT_CODES, Outcome
from edgekd.measure import latency
from edgekd.measure.assemble import UNITS
from edgekd.measure.compare import Comparison, Design, Expectation, compare, meets
from edgekd.measure.device import Device, open_device, wrong_device
from edgekd.measure.estimate import Estimate
from edgekd.measure.findings import Findings, utc_now
from edgekd.measure.probes import Graph, absent_runtime
from edgekd.measure.protocol import Protocol, find_protocol
from edgekd.pipeline.bench_models import Model, made_ready
from edgekd.pipeline.history.record import Occasion, record
from edgekd.pipeline.keys import code_digest
from edgekd.pipeline.surroundings import stable_digest
from edgekd.store.journal import Journal
from edgekd.store.lock import Lock
from edgekd.store.store import Store
from edgekd.targets.devices_file import DEVICES_FILE, read_targets, select_targets
from edgekd.targets.target import Target

_CODE = ("edgekd.measure", "edgekd.backends.onnx")  # which adapts what others wrote
_WORST: tuple[Outcome, ...] = ("fail", "inconclusive", "pass")


@dataclass(frozen=True)
class Bench:
    """What is compared: files by their names, one of them the baseline, on a target.

    given: a folder of images to time on, or None for standard normal inputs. With `until_decided` the
    session grows, look by look, up to `protocol.most_processes`.
    """

    models: Mapping[str, Graph]
    baseline: str
    target: Target
    protocol: Protocol
    given: Path | None = None
    until_decided: bool = False
    expected: Expectation | None = None

    def __post_init__(self) -> None:
        most, weakness = self.protocol.most_processes, self.protocol.weakness
        if self.until_decided and self.protocol.num_processes > most:
            raise UsageError(f"a session grows up to {most} processes", where="--until-decided")
        if self.until_decided and weakness:
            raise UsageError(f"nothing is ever decided: {weakness}", where="--until-decided")

    @property
    def backends(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(graph.backend for graph in self.models.values()))

    @property
    def design(self) -> Design:
        step = self.protocol.num_processes
        most = self.protocol.most_processes if self.until_decided else step
        return Design(step, most, len(self.models) - 1)

    def done(self, comparison: Comparison) -> bool:
        """Whether further processes could change nothing that was asked."""
        known = self.expected is not None and meets(comparison, self.expected) != "inconclusive"
        return known or comparison.settled


@dataclass(frozen=True)
class Result:
    """What a bench found. `measurements`: p50 and p90 of every model, the speed-up of every pair."""

    bench: Bench
    comparisons: tuple[Comparison, ...]
    measurements: tuple[Measurement, ...]
    device: Mapping[str, Any]
    changes: Mapping[str, tuple[str, ...]]
    """Model -> what had to be changed in a copy of it before it could be timed."""

    @property
    def outcome(self) -> Outcome | None:
        """Whether every pair is as was expected; None when nothing was."""
        if self.bench.expected is None:
            return None
        found = {meets(one, self.bench.expected) for one in self.comparisons}
        return next(word for word in _WORST if word in found)

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.outcome] if self.outcome else 0

    def as_data(self) -> dict[str, Any]:
        """Plain JSON data: the answers, and the measurements that they rest on."""
        return {
            "target": self.bench.target.name,
            "baseline": self.bench.baseline,
            "expected": self.bench.expected,
            "outcome": self.outcome,
            "answers": [one.facts() for one in self.comparisons],
            "changes": {name: list(changes) for name, changes in self.changes.items()},
            "measurements": [one.model_dump(mode="json") for one in self.measurements],
        }


def find_target(name: str, threads: int | None) -> Target:
    """The target called `name` with another number of threads, if one is given. Raises `UsageError`."""
    (target,) = select_targets([name], read_targets(Path(DEVICES_FILE)))
    if threads is None:
        return target
    try:
        return type(target).model_validate({**target.model_dump(), "threads": threads})
    except ValidationError as error:
        raise UsageError(error.errors()[0]["msg"], where="--threads") from error


def protocol_of(profile: str, processes: int | None) -> Protocol:
    """The profile's rules, with another number of processes if one is given. Raises `UsageError`.

    A process takes as long as before: it is the processes that a ratio's certainty comes from.
    """
    protocol = find_protocol(profile)
    if processes is None:
        return protocol
    times = processes / protocol.num_processes
    more = {
        "num_processes": processes,
        "min_duration_s": protocol.min_duration_s * times,
        "min_count": math.ceil(protocol.min_count * times),
    }
    return protocol.model_copy(update=more)


def run_bench(bench: Bench, store: Store | None, emit: Emit) -> Result:
    """Time the models interleaved in fresh processes, every model in every round, and compare.

    Interrupted, the same call goes on with the processes that are finished; once it came to its end, it
    starts anew. Appended to the history of the store if there is one. Raises `UsageError` on an emulated
    device, whose times say nothing, `TargetError` for a lost or wrong one, `ModelError` and `DataError`.
    """
    with open_device(bench.target) as device:
        facts = _look(bench, device)
        with _workplace(store, _key(bench, facts)) as folder:
            models = {
                name: made_ready(name, graph, bench.given, folder, device)
                for name, graph in bench.models.items()
            }
            timing = _Timing(bench, device, models, Journal(folder / "journal.jsonl"), emit)
            comparisons = timing.go()
            result = Result(
                bench,
                comparisons,
                tuple(_measurements(timing, comparisons)),
                timing.found.device,
                {name: model.changes for name, model in models.items() if model.changes},
            )
            if store is not None:
                record(store, Occasion(kind="bench"), result.measurements)
    return result


def _look(bench: Bench, device: Device) -> Mapping[str, Any]:
    """What the device is; refused before anything is timed if its times would mean nothing."""
    target, runtimes = bench.target, {device.runtime(name): name for name in bench.backends}
    answer = device.call("facts", runtimes=[*runtimes], deadline_s=120)
    for runtime, reason in answer["absent"].items():
        raise absent_runtime(target, runtimes[runtime], reason)
    facts: dict[str, Any] = {**answer["facts"], "target": target.facts(), "versions": answer["versions"]}
    if facts["emulated"]:
        raise UsageError(
            f"an emulated device has no times of its own ({facts['emulated']})",
            where=target.name,
            fix="run on the device itself; accuracy may be measured here: `edgekd measure`",
        )
    if problems := wrong_device(target, facts):
        raise TargetError("; ".join(problems), where=target.name)
    return facts


def _key(bench: Bench, facts: Mapping[str, Any]) -> str:
    """What the session under way depends on: another command, another device or code starts another one."""
    data = {
        "models": [[name, of_file(graph.path), graph.backend] for name, graph in bench.models.items()],
        "given": str(bench.given.absolute()) if bench.given else None,
        "baseline": bench.baseline,
        "design": [bench.design.step, bench.design.most, bench.expected],
        "protocol": bench.protocol.model_dump(mode="json"),
        "device": stable_digest({bench.target.name: facts}),
        "code": {name: code_digest(name) for name in _CODE},
        "runtimes": [of_file(file) for name in bench.backends for file in BACKENDS.load(name).device_files],
    }
    return f"bench-{of_data(data)[:24]}"


@contextmanager
def _workplace(store: Store | None, key: str) -> Iterator[Path]:
    """A folder that survives an interruption, locked; in the user's cache where there is no store."""
    folder = store.work_folder(key) if store else _cache() / key
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(folder, error) from error
    with store.lock(key) if store else Lock(folder.with_suffix(".lock")):
        folder.mkdir(exist_ok=True)  # whoever held the lock may have come to its end
        yield folder
        shutil.rmtree(folder, ignore_errors=True)


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "edgekd" / "bench"


@dataclass
class _Timing:
    """One session under way."""

    bench: Bench
    device: Device
    models: Mapping[str, Model]
    journal: Journal
    emit: Emit
    found: Findings = field(init=False)
    problems: dict[str, tuple[str, ...]] = field(init=False)
    """Model -> what makes its times those of something else than the target was asked for."""

    def go(self) -> tuple[Comparison, ...]:
        """Time up to each look of the design until every pair is decided."""
        seed = int(self.journal("seed", lambda: secrets.randbelow(2**31)))
        self.found = Findings(self.bench.target, self.bench.protocol, seed)
        entries = [self._entry(model) for model in self.models.values()]
        self.problems = {entry["name"]: self._not_as_asked(entry) for entry in entries}
        comparisons: tuple[Comparison, ...] = ()
        for look in self.bench.design.looks:
            for number in range(len(self.found.processes), look):
                self._one(number, look, entries)
            comparisons = self._compare()
            if all(self.bench.done(one) for one in comparisons):
                break
        self._tell(len(self.found.processes), len(self.found.processes), "timed")
        return comparisons

    def _one(self, number: int, look: int, entries: Sequence[dict[str, Any]]) -> None:
        self._tell(number, look, f"process {number + 1}")
        answer = self.journal(f"latency/{number}", partial(self._ask, number, entries))
        self.found.note(answer)
        self.found.processes.append(answer["result"])
        if problems := (*self.found.emulated, *self.found.wrong_device):
            raise TargetError("; ".join(problems), where=self.bench.target.name)

    def _ask(self, number: int, entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
        seed = derive(self.found.seed, "bench", self.bench.target.name, number) % 2**32
        answer = self.device.call("latency", entries, seed=seed, **self.bench.protocol.request())
        return {**answer, "taken_at": utc_now()}

    def _compare(self) -> tuple[Comparison, ...]:
        bench, processes = self.bench, self.found.processes
        made = partial(compare, processes, protocol=bench.protocol, design=bench.design)
        return tuple(
            made(name, bench.baseline, problems=(*self.problems[name], *self.problems[bench.baseline]))
            for name in self.models
            if name != bench.baseline
        )

    def _not_as_asked(self, entry: dict[str, Any]) -> tuple[str, ...]:
        """Of ONNX Runtime, kernels elsewhere than on the first provider that the target asks for."""
        model = self.models[entry["name"]]
        wanted = (self.bench.target.options.get("providers") or [None])[0]
        if wanted is None or model.subject.backend != "onnx":
            return model.problems
        ask = partial(self.device.call, "layers", [entry], runs=1, warm_up=0, seed=0)
        layers = self.journal(f"layers/{entry['name']}", ask)["result"]["layers"]
        others = [f"{one['name']} on {one['provider']}" for one in layers if one["provider"] != wanted]
        return (f"fall-back: {len(others)} kernels of {entry['name']}, {others[0]}",) if others else ()

    def _entry(self, model: Model) -> dict[str, Any]:
        return self.device.artifact(
            model.subject.name,
            model.path,
            backend=model.subject.backend,
            images=model.images,
            preprocess=model.preprocess,
        )

    def _tell(self, done: int, total: int, text: str) -> None:
        self.emit({"event": "progress", "step": "bench", "done": done, "total": total, "text": text})


# --- as measurements ----------------------------------------------------------------------------------------


def _measurements(timing: _Timing, comparisons: Sequence[Comparison]) -> Iterator[Measurement]:
    processes, protocol = timing.found.processes, timing.bench.protocol
    for name, model in timing.models.items():
        made = partial(_measurement, timing, subject=model.subject, problems=timing.problems[name])
        yield made("latency_p50_ms", latency.p50(processes, name, protocol))
        yield made("latency_p90_ms", latency.p90(processes, name, protocol))
    for one in comparisons:
        one.estimate.detail["answer"] = one.facts()
        subject, against = timing.models[one.name].subject, timing.models[one.against].subject
        yield _measurement(timing, "speedup", one.estimate, subject=subject, against=against)


def _measurement(
    timing: _Timing, quantity: Quantity, estimate: Estimate, *, problems: Sequence[str] = (), **subjects: Any
) -> Measurement:
    bench, found = timing.bench, timing.found
    problems = (*problems, *estimate.problems)
    reasons = tuple(dict.fromkeys((*problems, *estimate.notes)))
    return Measurement(
        quantity=quantity,
        unit=UNITS[quantity],
        value=estimate.value,
        interval=estimate.interval,
        n=estimate.n,
        target=bench.target.name,
        device=found.device,
        protocol=_protocol(bench, found),
        validity=Validity(valid=not problems, reasons=reasons),
        not_measured=estimate.missing,
        detail=estimate.detail,
        taken_at=found.taken_at,
        **subjects,
    )


def _protocol(bench: Bench, found: Findings) -> dict[str, Any]:
    return {
        **bench.protocol.model_dump(mode="json"),
        "seed": found.seed,
        "threads": bench.target.threads,
        "pinned": bench.target.cores,
        "clock": "perf_counter_ns around the whole call",
        "processes": len(found.processes),
        "looks": list(bench.design.looks),
        "inputs": str(bench.given) if bench.given else "standard normal",
    }
