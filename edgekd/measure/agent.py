"""Measures on the device: one JSON request in, exactly one JSON line out. Python 3.8 and newer.

    python agent.py request.json        (or the request on standard input)

Pushed to a target together with one runtime file per backend; imports only the standard library, NumPy and
those. Ends with 0 and `{"agent": 1, "ok": true, "facts": ..., "result": ...}`, or with 3 and
`{"agent": 1, "ok": false, "error": {"kind": ..., "message": ...}}`; kinds: request, artifact, data, fallback,
internal. Whatever else is printed goes to standard error. Modes: facts, accuracy, memory, latency.
All paths are relative to the folder it is started in.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import hashlib
import importlib.util
import json
import os
import platform
import random
import signal
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # NumPy's own threads would disturb what is timed

VERSION = 1
MARKER = "/etc/edgekd-emulated"
_INPUT_BYTES_MAX = 256 << 20
_CACHE_BYTES_GUESS = 32 << 20
_CLOCK_EVERY_NS = 200_000_000
_ARM_FEATURES = ("neon", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme")
_X86_FEATURES = ("sse4_1", "avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16")


class RequestError(Exception):
    """The request cannot be carried out as written."""


class DataError(Exception):
    """Images that were pushed are not what they should be."""


# --- what the device is -------------------------------------------------------------------------------------


def read(path: str) -> str | None:
    try:
        return Path(path).read_bytes().replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        return None


def read_int(path: str) -> int | None:
    text = read(path)
    return int(text) if text is not None and text.lstrip("-").isdigit() else None


def below(pattern: str, root: str = "/sys") -> list[str]:
    return sorted(str(path) for path in Path(root).glob(pattern))


def cpu_lines() -> dict[str, str]:
    """First value of every key of /proc/cpuinfo."""
    found: dict[str, str] = {}
    for line in (read("/proc/cpuinfo") or "").splitlines():
        key, separator, value = line.partition(":")
        if separator:
            found.setdefault(key.strip(), value.strip())
    return found


def emulation(machine: str, cpu: dict[str, str]) -> str | None:
    """Why this is not the silicon it looks like, or None. Emulated x86 on x86 shows only by a marker."""
    marker = os.environ.get("EDGEKD_EMULATED") or read(MARKER)
    if marker is not None:
        return marker or "marked as emulated"
    if "dummy-virt" in (read("/proc/device-tree/compatible") or ""):
        return "virtual machine: qemu's `virt` board"
    if machine == "aarch64" and "vendor_id" in cpu:
        return "qemu-user: an aarch64 process sees an x86 /proc/cpuinfo"
    return "qemu without KVM" if "TCG" in cpu.get("model name", "") else None


def facts() -> dict[str, Any]:
    """The device in the kernel's words; an absent fact is None."""
    cpu, machine = cpu_lines(), platform.machine()
    flags = set((cpu.get("Features") or cpu.get("flags") or "").split())
    memory = (read("/proc/meminfo") or "MemTotal: 0").splitlines()[0].split()
    return {
        "machine": machine,
        "model": read("/proc/device-tree/model") or read("/sys/devices/virtual/dmi/id/product_name"),
        "cpu": cpu.get("model name") or cpu.get("Hardware") or _arm_name(cpu),
        "cpu_features": [name for name in _ARM_FEATURES + _X86_FEATURES if name in flags],
        "vnni": bool(flags & {"avx512_vnni", "avx_vnni", "asimddp"}),
        "cores": os.cpu_count(),
        "cores_allowed": _allowed_cores(),
        "cache_bytes": cache_bytes(),
        "memory_bytes": int(memory[1]) * 1024,
        "governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "kernel": platform.release(),
        "os": _os_name(),
        "libc": "-".join(platform.libc_ver()),
        "python": platform.python_version(),
        "hypervisor": "hypervisor" in flags,
        "emulated": emulation(machine, cpu),
        "energy_rails": _energy_rails(),
    }


def _arm_name(cpu: dict[str, str]) -> str | None:
    parts = [cpu[key] for key in ("CPU implementer", "CPU part", "CPU revision") if key in cpu]
    return "/".join(parts) or None


def _os_name() -> str | None:
    for line in (read("/etc/os-release") or "").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return None


def _allowed_cores() -> list[int] | None:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _energy_rails() -> list[str]:
    return below("class/powercap/intel-rapl:*/energy_uj") + below(
        "bus/i2c/drivers/ina3221/*/hwmon/hwmon*/in*_input"
    )


def cache_bytes() -> int | None:
    """Size of the last-level cache, the largest that the kernel lists for core 0."""
    sizes = [read(path) or "" for path in below("devices/system/cpu/cpu0/cache/index*/size")]
    units = {"K": 1 << 10, "M": 1 << 20}
    known = [int(size[:-1]) * units[size[-1]] for size in sizes if size[:-1].isdigit() and size[-1] in units]
    return max(known) if known else None


def state() -> dict[str, Any]:
    """What may change while measuring: clocks in kHz, temperatures in mC, throttle counters, ticks, load."""
    ticks = (read("/proc/stat") or "").splitlines()[:1]
    throttled = below("devices/system/cpu/cpu*/thermal_throttle/core_throttle_count")
    zones = below("class/thermal/thermal_zone*")
    return {
        "time": time.time(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "clocks_khz": clocks(),
        "temperatures_mc": {read(zone + "/type") or zone: read_int(zone + "/temp") for zone in zones},
        "throttle_count": sum(read_int(path) or 0 for path in throttled) if throttled else None,
        "pi_throttled": read("/sys/devices/platform/soc/soc:firmware/get_throttled"),
        "ticks": [int(value) for value in ticks[0].split()[1:]] if ticks else None,
    }


def clocks() -> dict[str, int | None]:
    cores = _allowed_cores() or []
    path = "/sys/devices/system/cpu/cpu{}/cpufreq/scaling_cur_freq"
    present = [core for core in cores if Path(path.format(core)).exists()]
    return {str(core): read_int(path.format(core)) for core in present}


def memory_kb() -> dict[str, int]:
    """VmHWM (peak), VmRSS and its parts of this process; never ru_maxrss, which is inherited over fork."""
    keys = ("VmHWM", "VmRSS", "RssAnon", "RssFile")
    lines = [line.split() for line in (read("/proc/self/status") or "").splitlines()]
    return {line[0][:-1]: int(line[1]) for line in lines if line and line[0][:-1] in keys}


# --- artifacts and images -----------------------------------------------------------------------------------


def runtime_module(name: str) -> Any:
    """Import the backend's runtime file once."""
    if name not in sys.modules:
        specification = importlib.util.spec_from_file_location(name, name + ".py")
        if specification is None or specification.loader is None or not Path(name + ".py").is_file():
            raise RequestError(f"there is no runtime file {name}.py")
        module = importlib.util.module_from_spec(specification)
        sys.modules[name] = module
        specification.loader.exec_module(module)
    return sys.modules[name]


def check_digest(artifact: dict[str, Any]) -> None:
    """Read in small pieces, so that the file does not count in the peak memory."""
    if not Path(artifact["path"]).is_file():
        raise RequestError(f"there is no file {artifact['path']}")
    digest = hashlib.sha256()
    with Path(artifact["path"]).open("rb") as stream:
        for piece in iter(lambda: stream.read(1 << 16), b""):
            digest.update(piece)
    if digest.hexdigest() != artifact["sha256"]:
        raise RequestError(f"{artifact['path']} arrived damaged: its sha256 is {digest.hexdigest()}")


def load(request: dict[str, Any], artifact: dict[str, Any]) -> Any:
    module = runtime_module(artifact["runtime"])
    return module.load(
        artifact["path"],
        threads=request["threads"],
        batch=request["batch"],
        options=request.get("options") or {},
    )


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
    if tuple(graph.input_shape[1:]) != (channels, height, width):
        raise DataError(
            f"the graph takes [C, H, W] = {list(graph.input_shape[1:])}, "
            f"the images are {[channels, height, width]}"
        )
    return images


def preprocess(images: Any, plan: dict[str, Any], dtype: Any) -> Any:
    """uint8 `[N, H, W, C]` to float `[N, C, H, W]`: the same operations as `edgekd.core.preprocess`."""
    import numpy as np

    x = images.astype(np.float32) * np.float32(plan["scale"])
    x = (x - np.asarray(plan["mean"], np.float32)) / np.asarray(plan["std"], np.float32)
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2).astype(dtype, copy=False))


# --- the modes ----------------------------------------------------------------------------------------------


def measure_accuracy(request: dict[str, Any]) -> dict[str, Any]:
    """Logits of every image, in order, to the file `out`; then what really ran."""
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
    profile = graph.profile()
    profile.pop("nodes")
    return {"n": len(logits), "num_classes": logits.shape[1], "profile": profile}


def measure_memory(request: dict[str, Any]) -> dict[str, Any]:
    """Peak resident memory of this process after import, after loading and after `runs` runs, in kB."""
    (artifact,) = request["artifacts"]
    check_digest(artifact)
    runtime_module(artifact["runtime"])
    import numpy as np

    imported = memory_kb()
    graph = load(request, artifact)
    loaded = memory_kb()
    x = np.zeros(graph.input_shape, graph.dtype)
    for _ in range(request["runs"]):
        graph.run(x)
    return {"import": imported, "load": loaded, "run": memory_kb()}


class Timed:
    """One graph of an interleaved session: its inputs, its samples and its warm-up."""

    def __init__(self, request: dict[str, Any], artifact: dict[str, Any]) -> None:
        self.name = artifact["name"]
        check_digest(artifact)
        started = time.perf_counter_ns()
        self.graph = load(request, artifact)
        self.load_ms = (time.perf_counter_ns() - started) / 1e6
        self.inputs = timing_inputs(self.graph, artifact, request["seed"])
        self._at = 0
        self.blocks: list[list[int]] = []
        self.cold_start_ms = self.once() / 1e6
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

    def report(self) -> dict[str, Any]:
        return {
            "blocks_ns": self.blocks,
            "load_ms": self.load_ms,
            "cold_start_ms": self.cold_start_ms,
            "warm_up": self.warm_up,
            "num_inputs": len(self.inputs),
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
    chosen = [np.arange(i * batch, (i + 1) * batch) % len(images) for i in range(count)]
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


def end_with_parent() -> None:
    """Ask Linux to kill this process when the one that waits for it dies: nobody would read the answer."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        return


def answer(request: dict[str, Any]) -> dict[str, Any]:
    if request.get("version") != VERSION:
        raise RequestError(f"the request is of version {request.get('version')}, the agent of {VERSION}")
    end_with_parent()
    faulthandler.dump_traceback_later(request["deadline_s"], exit=True, file=sys.stderr)
    if request.get("cores") is not None:
        os.sched_setaffinity(0, request["cores"])  # before the runtime makes its threads, which inherit it
    modes = {"accuracy": measure_accuracy, "memory": measure_memory, "latency": measure_latency}
    if request["mode"] not in ("facts", *modes):
        raise RequestError(f"`{request['mode']}` is not a mode; modes: facts, {', '.join(modes)}")
    result = modes[request["mode"]](request) if request["mode"] in modes else {}
    used = [artifact["runtime"] for artifact in request.get("artifacts", [])]
    runtimes = sorted({*used, *request.get("runtimes", [])})
    return {
        "facts": facts(),
        "versions": {name: runtime_module(name).versions() for name in runtimes},
        "result": result,
    }


def kind_of(error: BaseException) -> str:
    """The error's kind; a runtime file brings its own classes, so they are known by name."""
    if isinstance(error, (RequestError, KeyError)):
        return "request"
    names = {"DataError": "data", "ArtifactError": "artifact", "FallbackError": "fallback"}
    return names.get(type(error).__name__, "internal")


def read_request(arguments: list[str]) -> dict[str, Any]:
    text = Path(arguments[0]).read_bytes() if arguments else sys.stdin.buffer.read()
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
    line: dict[str, Any] = {"agent": VERSION, "ok": True}
    try:
        line.update(answer(read_request(arguments)))
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        line = {"agent": VERSION, "ok": False, "error": {"kind": kind_of(error), "message": message}}
    with os.fdopen(channel, "wb") as stream:
        stream.write(json.dumps(line, allow_nan=False).encode() + b"\n")
    return 0 if line["ok"] else 3


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
