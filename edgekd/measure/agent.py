"""Measures on the device: one JSON request in, exactly one JSON line out. Python 3.8 and newer.

    python agent.py request.json        (or the request as one line on standard input)

Pushed to a target together with agent_facts.py, agent_sensors.py and one runtime file per backend; imports
only the standard library, NumPy and those. Ends with 0 and `{"agent": 1, "ok": true, "facts": ..., "result":
...}`, or with 3 and `{"agent": 1, "ok": false, "error": {"kind": ..., "message": ...}}`; kinds: request,
artifact, data, fallback, absent, internal. Whatever else is printed goes to standard error. Its own modes
are facts, accuracy, memory and latency; a further mode NAME is `measure` of agent_NAME.py beside it.
All paths are relative to the folder it is started in, where its temporary files are, too.

`"lifeline": true` says that standard input stays open: the process ends when it closes.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import hashlib
import importlib
import importlib.util
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable  # noqa: UP035 - typing's own, for Python 3.8

if TYPE_CHECKING or __package__:
    from .agent_facts import cache_bytes, clocks, memory_kb, state
    from .agent_facts import facts as device_facts
    from .agent_sensors import energy_sensors
else:  # on the device, where the files lie side by side
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from agent_facts import cache_bytes, clocks, memory_kb, state
    from agent_facts import facts as device_facts
    from agent_sensors import energy_sensors

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # NumPy's own threads would disturb what is timed

VERSION = 1
_INPUT_BYTES_MAX = 256 << 20
_CACHE_BYTES_GUESS = 32 << 20
_CLOCK_EVERY_NS = 200_000_000
_MOST_COMPUTED = 500
BROKEN = "importing it fails"
"""Said of a runtime that is there and cannot be used."""
_OTHER_FILES = ("facts", "sensors")
"""Of agent_NAME.py beside it: those that are no mode."""


class RequestError(Exception):
    """The request cannot be carried out as written."""


class DataError(Exception):
    """Images that were pushed are not what they should be."""


class AbsentError(Exception):
    """The runtime cannot be imported here."""


def facts() -> dict[str, Any]:
    """What the device is, and where energy can be read on it."""
    rails, unreadable = energy_sensors()
    found = device_facts()
    return {**found, "energy_rails": [rail["path"] for rail in rails], "energy_unreadable": unreadable}


# --- artifacts and images -----------------------------------------------------------------------------------


def runtime_module(name: str) -> Any:
    """Import the backend's runtime file once; raises `AbsentError` where its runtime is absent or broken."""
    if name not in sys.modules:
        specification = importlib.util.spec_from_file_location(name, name + ".py")
        if specification is None or specification.loader is None or not Path(name + ".py").is_file():
            raise RequestError(f"there is no runtime file {name}.py")
        module = importlib.util.module_from_spec(specification)
        try:
            specification.loader.exec_module(module)
        except (ImportError, OSError) as error:  # a shared library that ctypes cannot load is an OSError
            raise AbsentError(unusable(error)) from error
        sys.modules[name] = module
    return sys.modules[name]


def unusable(error: BaseException) -> str:
    """Of a runtime that cannot be imported: it is absent, or broken."""
    said = (str(error).strip().splitlines() or [""])[0]
    return said if isinstance(error, ModuleNotFoundError) else f"{BROKEN}: {said}"


def check_digest(artifact: dict[str, Any]) -> None:
    """Raises `RequestError` for a file that is not what was sent, the artifact's or one beside it."""
    expected = {artifact["path"]: artifact["sha256"]}
    expected.update(artifact.get("beside", {}))
    for path, sent in expected.items():
        if not Path(path).is_file():
            raise RequestError(f"there is no file {path}")
        digest = file_sha256(path)
        if digest != sent:
            raise RequestError(f"{path} arrived damaged: its sha256 is {digest}")


def file_sha256(path: str) -> str:
    """Read in small pieces, so that the file does not count in the peak memory."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as stream:
        for piece in iter(lambda: stream.read(1 << 16), b""):
            digest.update(piece)
    return digest.hexdigest()


def load(request: dict[str, Any], artifact: dict[str, Any]) -> Any:
    module = runtime_module(artifact["runtime"])
    try:
        return module.load(
            artifact["path"],
            threads=request["threads"],
            batch=request["batch"],
            options=request.get("options") or {},
        )
    except Exception:
        check_digest(artifact)  # damaged since it was looked at, it is not the graph that is bad
        raise


def read_images(path: str, graph: Any) -> Any:
    """The uint8 images `[N, H, W, C]` at `path`, mapped; raises `DataError` if the graph cannot take them."""
    import numpy as np

    try:
        images = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot read the images {path}: {error}") from error
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) == 0:
        raise DataError(f"{path} must be uint8 [N, H, W, C], is {images.dtype} {list(images.shape)}")
    _, height, width, channels = images.shape
    pixels = graph.dtype == np.uint8
    shape, order = (
        ((height, width, channels), "H, W, C") if pixels else ((channels, height, width), "C, H, W")
    )
    if tuple(graph.input_shape[1:]) != shape:
        raise DataError(
            f"the graph takes [{order}] = {list(graph.input_shape[1:])}, the images are {list(shape)}"
        )
    return images


def preprocess(images: Any, plan: dict[str, Any], dtype: Any) -> Any:
    """uint8 `[N, H, W, C]` to float `[N, C, H, W]`: the same operations as `edgekd.core.preprocess`.

    A graph whose input is uint8 does these itself, so it gets the pixels.
    """
    import numpy as np

    if dtype == np.uint8:
        return np.ascontiguousarray(images)
    x = images.astype(np.float32) * np.float32(plan["scale"])
    x = (x - np.asarray(plan["mean"], np.float32)) / np.asarray(plan["std"], np.float32)
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2).astype(dtype, copy=False))


# --- the modes ----------------------------------------------------------------------------------------------


def measure_accuracy(request: dict[str, Any]) -> dict[str, Any]:
    """Logits of every image, in order, to the file `out`; then what really ran, unless `profile` is false."""
    import numpy as np

    (artifact,) = request["artifacts"]
    check_digest(artifact)
    graph = load(request, artifact)
    images, batch, rows = read_images(artifact["images"], graph), request["batch"], []
    for start in range(0, len(images), batch):
        x = preprocess(images[start : start + batch], artifact["preprocess"], graph.dtype)
        missing = batch - len(x)
        if missing:
            x = np.concatenate([x, np.repeat(x[-1:], missing, axis=0)])
        rows.append(np.asarray(graph.run(x), np.float32)[: batch - missing])
    logits = np.concatenate(rows)
    if logits.ndim != 2 or len(logits) != len(images):
        raise DataError(f"the logits must be [N, classes], are {list(logits.shape)}")
    np.save(request["out"], logits, allow_pickle=False)
    found = {"n": len(logits), "num_classes": logits.shape[1], "logits_sha256": file_sha256(request["out"])}
    if request.get("profile", True):
        found["profile"] = {key: value for key, value in graph.profile().items() if key != "nodes"}
    return found


def measure_memory(request: dict[str, Any]) -> dict[str, Any]:
    """Of this process with one graph: peak resident memory in kB after import, loading and `runs` runs, and
    under `ms` what import, loading and the first run took."""
    (artifact,) = request["artifacts"]
    check_digest(artifact)
    _, import_ms = timed(lambda: runtime_module(artifact["runtime"]))
    import numpy as np

    imported = memory_kb()
    graph, load_ms = timed(lambda: load(request, artifact))
    loaded = memory_kb()
    x = np.zeros(graph.input_shape, graph.dtype)
    _, first_run_ms = timed(lambda: graph.run(x))
    for _ in range(request["runs"] - 1):
        graph.run(x)
    ms = {"import": import_ms, "load": load_ms, "first_run": first_run_ms}
    return {"import": imported, "load": loaded, "run": memory_kb(), "ms": ms}


def timed(action: Callable[[], Any]) -> tuple[Any, float]:
    """What the action returns, and its milliseconds."""
    started = time.perf_counter_ns()
    value = action()
    return value, (time.perf_counter_ns() - started) / 1e6


class Timed:
    """One graph of an interleaved session: its inputs, its samples and its warm-up."""

    def __init__(self, request: dict[str, Any], artifact: dict[str, Any]) -> None:
        self.name = artifact["name"]
        check_digest(artifact)
        self.graph, self.load_ms = timed(lambda: load(request, artifact))
        self.inputs = timing_inputs(self.graph, artifact, request["seed"])
        self._at = 0
        self.blocks: list[list[int]] = []
        self.first_run_ms = self.once() / 1e6
        self.warm_up: dict[str, Any] = {}

    def once(self) -> int:
        """One run on the next input: nanoseconds around the whole call."""
        x = self.inputs[self._at]
        self._at = (self._at + 1) % len(self.inputs)
        run, clock = self.graph.run, time.perf_counter_ns
        started = clock()
        run(x)
        return clock() - started

    def block(self, runs: int) -> None:
        """`runs` timed runs after one untimed one, which refills the caches that the others emptied."""
        self.once()
        self.blocks.append([self.once() for _ in range(runs)])

    def warm(self, rule: dict[str, Any]) -> None:
        """Until both minima are met and the medians of the last two windows agree, or time is up."""
        runs: list[int] = []
        spent = 0
        while True:
            runs.append(self.once())
            spent += runs[-1]
            enough = spent >= rule["min_s"] * 1e9 and len(runs) >= rule["min_count"]
            settled = enough and steady(runs, rule["tolerance"])
            if settled or (spent >= rule["max_s"] * 1e9 and len(runs) >= rule["min_count"]):
                self.warm_up = {"runs": len(runs), "s": spent / 1e9, "settled": settled}
                return

    def compute_ms(self) -> list[float]:
        """Where the runtime tells: milliseconds of the computation alone, without copies and starting it,
        in runs of their own after the timed ones; else none."""
        tell = getattr(self.graph, "compute_ms", None)
        return [] if tell is None else list(tell(min(sum(map(len, self.blocks)), _MOST_COMPUTED)))

    def report(self) -> dict[str, Any]:
        return {
            "blocks_ns": self.blocks,
            "load_ms": self.load_ms,
            "first_run_ms": self.first_run_ms,
            "warm_up": self.warm_up,
            "num_inputs": len(self.inputs),
            "compute_ms": self.compute_ms(),
        }


def steady(runs: list[int], tolerance: float) -> bool:
    """Whether the medians of the last two windows, of a quarter of the runs each, agree."""
    width = max(5, min(len(runs) // 4, 200))
    if len(runs) < 2 * width:
        return False
    before = statistics.median(runs[-2 * width : -width])
    return abs(statistics.median(runs[-width:]) / before - 1) <= tolerance


def timing_inputs(graph: Any, artifact: dict[str, Any], seed: int) -> list[Any]:
    """Batches of real images, more than the last-level cache holds where there are enough of them.

    Drawn by the seed: evaluation sets are often sorted by class, and a short session sees the first few.

    Without images: a single set of standard normal values, for graphs that have not met data yet.
    """
    import numpy as np

    size = max(1, int(np.prod(graph.input_shape)) * graph.dtype.itemsize)
    cache = cache_bytes() or _CACHE_BYTES_GUESS
    wanted = max(1, min(cache, _INPUT_BYTES_MAX) // size + 1)
    if artifact.get("images") is None:
        generator = np.random.default_rng(seed)
        return [
            generator.standard_normal(graph.input_shape).astype(graph.dtype) for _ in range(min(wanted, 16))
        ]
    images, batch = read_images(artifact["images"], graph), graph.input_shape[0]
    count = min(wanted, max(1, len(images) // batch))
    order = np.random.default_rng(seed).permutation(len(images))
    chosen = [order[np.arange(i * batch, (i + 1) * batch) % len(images)] for i in range(count)]
    return [preprocess(images[rows], artifact["preprocess"], graph.dtype) for rows in chosen]


def measure_latency(request: dict[str, Any]) -> dict[str, Any]:
    """All graphs in one process, interleaved in blocks whose order is drawn anew every round."""
    order = random.Random(request["seed"])
    artifacts = list(request["artifacts"])
    order.shuffle(artifacts)
    graphs = [Timed(request, artifact) for artifact in artifacts]
    for graph in graphs:
        graph.warm(request["warm_up"])
    before, seen = state(), []
    gc.collect()
    gc.disable()
    started = looked = time.perf_counter_ns()
    while not _timed_enough(graphs[0], request, time.perf_counter_ns() - started):
        order.shuffle(graphs)
        for graph in graphs:
            graph.block(request["block"])
        if time.perf_counter_ns() - looked > _CLOCK_EVERY_NS:
            seen.append(clocks())
            looked = time.perf_counter_ns()
    span_s = (time.perf_counter_ns() - started) / 1e9
    after = state()
    gc.enable()
    return {
        "graphs": {graph.name: graph.report() for graph in graphs},
        "state": {
            "before": before,
            "after": after,
            "clocks_khz": [seen_one for seen_one in seen if seen_one],
        },
        "span_s": span_s,
    }


def _timed_enough(graph: Timed, request: dict[str, Any], spent_ns: int) -> bool:
    rounds = len(graph.blocks)
    return bool(
        spent_ns >= request["min_s"] * 1e9
        and rounds * request["block"] >= request["min_count"]
        and rounds >= request["min_rounds"]
    )


# --- the door -----------------------------------------------------------------------------------------------

Mode = Callable[[dict], dict]
MODES: dict[str, Mode] = {
    "facts": lambda request: {},
    "accuracy": measure_accuracy,
    "memory": measure_memory,
    "latency": measure_latency,
}


def mode_of(name: str) -> Mode:
    """The function that measures; raises `RequestError` with the modes there are."""
    if name in MODES:
        return MODES[name]
    further = {path.stem[len("agent_") :] for path in Path().glob("agent_*.py")} - set(_OTHER_FILES)
    if name not in further:
        raise RequestError(f"`{name}` is not a mode; modes: {', '.join([*MODES, *sorted(further)])}")
    measure: Mode = importlib.import_module(f"agent_{name}").measure
    return measure


def end_with_parent() -> None:
    """Ask Linux to kill this process when the one that waits for it dies: nobody would read the answer."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        return


def end_with_input() -> None:
    """End this process, wherever it is, when standard input closes: whoever asked is gone, or the link is."""

    def watch() -> None:
        while os.read(0, 4096):
            pass
        os.write(2, b"standard input was closed, so nobody waits for an answer\n")
        os._exit(3)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


def answer(request: dict[str, Any]) -> dict[str, Any]:
    if request.get("version") != VERSION:
        raise RequestError(f"the request is of version {request.get('version')}, the agent of {VERSION}")
    end_with_parent()
    faulthandler.dump_traceback_later(request["deadline_s"], exit=True, file=sys.stderr)
    if request.get("lifeline"):
        end_with_input()
    if request.get("cores") is not None:
        os.sched_setaffinity(0, request["cores"])  # before the runtime makes its threads, which inherit it
    result = mode_of(request["mode"])(request)
    used = {artifact["runtime"] for artifact in request.get("artifacts", [])}
    versions = {name: runtime_module(name).versions() for name in sorted(used)}
    absent = look_for(sorted({*request.get("runtimes", [])} - used), versions)
    for path in request.get("remove", []):
        Path(path).unlink()
    return {"facts": facts(), "versions": versions, "absent": absent, "result": result}


def look_for(runtimes: list[str], versions: dict[str, Any]) -> dict[str, str]:
    """Add the versions of those that are there; returns why the others are not."""
    absent = {}
    for name in runtimes:
        try:
            versions[name] = runtime_module(name).versions()
        except Exception as error:
            if kind_of(error) != "absent":
                raise
            absent[name] = str(error)
    return absent


def kind_of(error: BaseException) -> str:
    """The error's kind; a runtime file brings its own classes, so they are known by name."""
    if isinstance(error, (RequestError, KeyError)):
        return "request"
    names = {
        "DataError": "data",
        "ArtifactError": "artifact",
        "FallbackError": "fallback",
        "AbsentError": "absent",
        "Unavailable": "absent",
    }
    return names.get(type(error).__name__, "internal")


def read_request(arguments: list[str]) -> dict[str, Any]:
    text = Path(arguments[0]).read_bytes() if arguments else sys.stdin.buffer.readline()
    try:
        request = json.loads(text)
    except ValueError as error:
        raise RequestError(f"the request is not JSON: {error}") from error
    if not isinstance(request, dict):
        raise RequestError("the request is not a JSON object")
    return request


def main(arguments: list[str]) -> int:
    channel = os.dup(1)
    os.dup2(2, 1)  # whatever native code prints must not reach the one line that is parsed
    os.environ["TMPDIR"] = tempfile.tempdir = str(Path.cwd())  # what a kill leaves goes with the folder
    line: dict[str, Any] = {"agent": VERSION, "ok": True}
    try:
        line.update(answer(read_request(arguments)))
    except Exception as error:
        message = str(error) if kind_of(error) == "absent" else f"{type(error).__name__}: {error}"
        line = {"agent": VERSION, "ok": False, "error": {"kind": kind_of(error), "message": message}}
    with os.fdopen(channel, "wb") as stream:
        stream.write(json.dumps(line, allow_nan=False).encode() + b"\n")
    return 0 if line["ok"] else 3


if __name__ == "__main__":
    sys.modules["agent"] = sys.modules[__name__]  # further modes import what they share with these
    sys.exit(main(sys.argv[1:]))
