"""Quick answers from a target before the final session: times that rank candidates, and logits."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.backends.catalogue import BACKENDS
from edgekd.core.errors import AbsentRuntimeError, UsageError
from edgekd.core.measurement import Interval
from edgekd.core.preprocess import Preprocess
from edgekd.core.seed import derive
from edgekd.measure import latency
from edgekd.measure.accuracy import Logits, read_array
from edgekd.measure.device import open_device
from edgekd.measure.protocol import PROTOCOLS, Protocol
from edgekd.targets.target import Target


@dataclass(frozen=True)
class GraphTime:
    """One graph's time among those it was interleaved with. Good for ranking, never for a verdict."""

    p50_ms: float
    spread: float
    """Between processes, as a fraction of p50."""
    interval: Interval | None
    detail: Mapping[str, Any]
    device: Mapping[str, Any]


def time_graphs(
    paths: Mapping[str, Path],
    target: Target,
    protocol: Protocol,
    *,
    seed: int,
    backend: str = "onnx",
    images: Path | None = None,
    preprocess: Preprocess | None = None,
) -> dict[str, GraphTime]:
    """Time all graphs interleaved in `protocol.num_processes` fresh processes; name -> its time.

    Without `images` (uint8 .npy `[N, H, W, C]`, which all graphs must accept) inputs are random numbers.
    Raises `UsageError` on an emulated target, whose times rank nothing, `ModelError` for a graph that does
    not run, `TargetError`.
    """
    with open_device(target) as device:
        entries = [
            device.artifact(name, path, backend=backend, images=images, preprocess=preprocess)
            for name, path in paths.items()
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
    processes = [answer["result"] for answer in answers]
    device_facts = {**facts, "target": target.facts(), "versions": answers[0]["versions"]}
    return {name: _time(processes, name, protocol, device_facts) for name in paths}


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
    found = time_graphs({"graph": path}, target, protocol, seed=seed, images=images, preprocess=preprocess)
    return found["graph"]


def predict(
    path: Path,
    images: npt.NDArray[np.uint8],
    preprocess: Preprocess,
    target: Target,
    *,
    backend: str = "onnx",
    batch: int = 1,
) -> Logits:
    """Logits float32 `[N, C]` of uint8 images `[N, H, W, C]` from the artifact, run on the target.

    Raises `ModelError` for a graph and `DataError` for images that do not fit it, `TargetError`.
    """
    with tempfile.TemporaryDirectory(prefix="edgekd-predict-") as folder, open_device(target) as device:
        stored = Path(folder, "images.npy")
        np.save(stored, images, allow_pickle=False)
        entry = device.artifact("graph", path, backend=backend, images=stored, preprocess=preprocess)
        device.call("accuracy", [entry], out="logits.npy", batch=batch)
        device.pull("logits.npy", Path(folder, "logits.npy"))
        return read_array(Path(folder, "logits.npy"))


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
    if target.kind != "local":
        fix = f"edgekd device setup {target.name} --backend {backend}"
    elif find_spec(BACKENDS.load(backend).package) is None:
        fix = f"pip install 'edgekd[{BACKENDS.load(backend).extra}]'"
    else:
        fix = "name a target that has it (`edgekd device add`), or put another backend first"
    title = BACKENDS.load(backend).title
    return AbsentRuntimeError(f"{title} is not on this device: {reason}", where=target.name, fix=fix)


def _time(
    processes: list[latency.Process], name: str, protocol: Protocol, device: Mapping[str, Any]
) -> GraphTime:
    found = latency.p50(processes, name, protocol)
    assert found.value is not None
    return GraphTime(found.value, found.detail["spread"], found.interval, found.detail, device)
