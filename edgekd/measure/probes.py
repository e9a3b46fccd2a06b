"""Quick answers from a target before the final session: times that rank candidates, and logits."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.backends.catalogue import BACKENDS
from edgekd.core.errors import AbsentRuntimeError, MissingDependencyError, UsageError
from edgekd.core.measurement import Interval
from edgekd.core.preprocess import Preprocess
from edgekd.core.seed import derive
from edgekd.measure import agent, latency
from edgekd.measure.accuracy import Logits, read_array
from edgekd.measure.device import open_device
from edgekd.measure.estimate import Estimate
from edgekd.measure.protocol import PROTOCOLS, Protocol
from edgekd.targets.target import Target


@dataclass(frozen=True)
class Graph:
    """An artifact's file and the runtime that runs it."""

    path: Path
    backend: str = "onnx"


@dataclass(frozen=True)
class GraphTime:
    """One graph's time among those it was interleaved with. Good for ranking, never for a verdict."""

    p50_ms: float
    spread: float
    """Between processes, as a fraction of p50."""
    interval: Interval | None
    detail: Mapping[str, Any]
    device: Mapping[str, Any]


@dataclass(frozen=True)
class Timing:
    """Graphs that were timed interleaved in the same processes on one target."""

    processes: Sequence[latency.Process]
    protocol: Protocol
    device: Mapping[str, Any]

    def of(self, name: str) -> GraphTime:
        found = latency.p50(self.processes, name, self.protocol)
        assert found.value is not None
        return GraphTime(found.value, found.detail["spread"], found.interval, found.detail, self.device)

    def speedup(self, name: str, against: str) -> Estimate:
        """Time of `against` over time of `name`, paired round by round."""
        return latency.speedup(self.processes, name, against, self.protocol)


def time_graphs(
    graphs: Mapping[str, Graph],
    target: Target,
    protocol: Protocol,
    *,
    seed: int,
    images: Path | None = None,
    preprocess: Preprocess | None = None,
) -> dict[str, GraphTime]:
    """What `timing_of` finds of every graph; name -> its time."""
    timing = timing_of(graphs, target, protocol, seed=seed, images=images, preprocess=preprocess)
    return {name: timing.of(name) for name in graphs}


def timing_of(
    graphs: Mapping[str, Graph],
    target: Target,
    protocol: Protocol,
    *,
    seed: int,
    images: Path | None = None,
    preprocess: Preprocess | None = None,
) -> Timing:
    """Time all graphs interleaved in `protocol.num_processes` fresh processes.

    Without `images` (uint8 .npy `[N, H, W, C]`, which all graphs must accept) inputs are random numbers.
    Raises `UsageError` on an emulated target, whose times rank nothing, `ModelError` for a graph that does
    not run, `TargetError`.
    """
    with open_device(target) as device:
        entries = [
            device.artifact(name, graph.path, backend=graph.backend, images=images, preprocess=preprocess)
            for name, graph in graphs.items()
        ]
        answers = [
            device.call(
                "latency",
                entries,
                seed=derive(seed, "latency", target.name, number) % 2**32,
                **protocol.request(),
            )
            for number in range(protocol.num_processes)
        ]
    facts = answers[0]["facts"]
    if facts["emulated"]:
        raise UsageError(f"times on an emulated device rank nothing ({facts['emulated']})", where=target.name)
    device_facts = {**facts, "target": target.facts(), "versions": answers[0]["versions"]}
    return Timing([answer["result"] for answer in answers], protocol, device_facts)


def smoke_latency(
    path: Path,
    target: Target,
    *,
    seed: int = 0,
    images: Path | None = None,
    preprocess: Preprocess | None = None,
) -> GraphTime:
    """The time of one graph by the shortest profile, for progress lines."""
    protocol = PROTOCOLS["smoke"]
    found = time_graphs(
        {"graph": Graph(path)}, target, protocol, seed=seed, images=images, preprocess=preprocess
    )
    return found["graph"]


@dataclass(frozen=True)
class Answer:
    """What an artifact said of images, and which of its kernels ran elsewhere than it declares."""

    logits: Logits
    unexpected: Sequence[str]


def predict(
    path: Path,
    images: npt.NDArray[np.uint8],
    preprocess: Preprocess,
    target: Target,
    *,
    backend: str = "onnx",
    batch: int = 1,
) -> Logits:
    """The logits of `ask` alone."""
    return ask(path, images, preprocess, target, backend=backend, batch=batch).logits


def ask(
    path: Path,
    images: npt.NDArray[np.uint8],
    preprocess: Preprocess,
    target: Target,
    *,
    backend: str = "onnx",
    batch: int = 1,
) -> Answer:
    """Logits float32 `[N, C]` of uint8 images `[N, H, W, C]` from the artifact, run on the target.

    Raises `ModelError` for a graph and `DataError` for images that do not fit it, `TargetError`.
    """
    with tempfile.TemporaryDirectory(prefix="edgekd-predict-") as folder, open_device(target) as device:
        stored = Path(folder, "images.npy")
        np.save(stored, images, allow_pickle=False)
        entry = device.artifact("graph", path, backend=backend, images=stored, preprocess=preprocess)
        answer = device.call("accuracy", [entry], out="logits.npy", batch=batch)
        device.pull("logits.npy", Path(folder, "logits.npy"))
        unexpected = [str(one) for one in answer["result"]["profile"]["unexpected"]]
        return Answer(read_array(Path(folder, "logits.npy")), unexpected)


def device_facts(
    target: Target, *, backends: Sequence[str] = ("onnx",), further: Sequence[str] = ()
) -> dict[str, Any]:
    """What the device says it is, how it is reached, and the versions of the backends' runtimes there.

    Of `further` backends the versions are under `further`, and under `absent` why one is not there. Raises
    `AbsentRuntimeError` when one of `backends` is not, `TargetError`.
    """
    with open_device(target) as device:
        needed, others = ({device.runtime(name): name for name in names} for names in (backends, further))
        answer = device.call("facts", runtimes=[*needed, *others], deadline_s=120)
    told, absent = answer["versions"], answer["absent"]
    for runtime in needed:
        if runtime in absent:
            raise absent_runtime(target, needed[runtime], absent[runtime])
    facts = {**answer["facts"], "target": target.facts(), "versions": {name: told[name] for name in needed}}
    beside = {
        "further": {name: told[name] for name in others if name in told},
        "absent": {others[name]: absent[name] for name in others if name in absent},
    }
    return facts | {key: found for key, found in beside.items() if found}


def absent_runtime(target: Target, backend: str, reason: str) -> AbsentRuntimeError:
    """What is wrong and what to do about it."""
    title = BACKENDS.load(backend).title
    return AbsentRuntimeError(
        f"{title} cannot run on this device: {reason}", where=target.name, fix=_fix(target, backend, reason)
    )


def _fix(target: Target, backend: str, reason: str) -> str:
    if target.kind != "local":
        return f"edgekd device setup {target.name} --backend {backend}"
    try:
        BACKENDS.load(backend).require()
    except MissingDependencyError as error:
        return error.fix or ""
    if agent.BROKEN in reason:
        packages = [name for name in BACKENDS.load(backend).device_packages if name != "numpy"]
        return f"pip install --force-reinstall --no-deps {' '.join(packages)}"
    return "name a target that has it (`edgekd device add`), or put another backend first"
