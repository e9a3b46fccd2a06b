"""What NVIDIA's trtexec is called with, so that 10.x and 11.x report the same quantity, and what it writes.

Standard library only, Python 3.8 and newer: it is on the device, too, beside the kit's check.py. The defaults
of trtexec changed with 11: CUDA graph off -> on, copies of input and output on -> off, spinning off -> on,
times of layers in the same run -> in one of their own (read in its source, release/10.3 and release/11.1).
Times here are `computeMs`: the network alone, in a CUDA graph, without copies, the CPU spinning, layers
apart. trtexec was not executed: no GPU.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NamedTuple, Sequence  # noqa: UP035 - typing's own, for Python 3.8

PLACES = ("/usr/src/tensorrt/bin/trtexec", "/usr/local/tensorrt/bin/trtexec")
"""Where JetPack and the packages for servers put it."""
MAJORS = (10, 11)
TIMES, LAYERS, PROFILE = "times.json", "layers.json", "profile.json"
"""Files that `time_argv` has it write, where it is started."""

_TYPED = {10: ["--stronglyTyped"], 11: []}
_COPIES = {10: [], 11: ["--includeDataTransfers"]}
_SAME = {10: ["--useCudaGraph", "--noDataTransfers", "--useSpinWait", "--separateProfileRun"], 11: []}
_BANNER = re.compile(r"\[TensorRT v(\d{1,2})(\d\d)(\d\d)\]")
_TIMES = ("h2dMs", "computeMs", "d2hMs", "latencyMs")


class FormatError(ValueError):
    """What trtexec wrote is not what its source says it writes."""


class Engine(NamedTuple):
    """What an engine is built of and runs on; `shape` is the input's, with its batch."""

    onnx: str
    file: str
    input: str
    shape: Sequence[int]
    is_dynamic: bool = True
    workspace_mib: int = 1024
    timing_cache: str | None = None
    optimization_level: int | None = None
    dla_core: int | None = None
    tf32: bool = False

    def spec(self) -> str:
        return f"{self.input}:{'x'.join(map(str, self.shape))}"


def build_argv(major: int, engine: Engine) -> list[str]:
    """Arguments that build the engine and run nothing."""
    argv = [f"--onnx={engine.onnx}", f"--saveEngine={engine.file}", *_TYPED[major], "--skipInference"]
    argv += ["--profilingVerbosity=detailed", f"--memPoolSize=workspace:{engine.workspace_mib}"]
    if engine.is_dynamic:
        argv += [f"--{which}Shapes={engine.spec()}" for which in ("min", "opt", "max")]
    if not engine.tf32:
        argv += ["--noTF32"]
    if engine.timing_cache is not None:
        argv += [f"--timingCacheFile={engine.timing_cache}"]
    if engine.optimization_level is not None:
        argv += [f"--builderOptimizationLevel={engine.optimization_level}"]
    return argv + _dla(engine) + (["--allowGPUFallback"] if engine.dla_core is not None else [])


def answer_argv(major: int, engine: Engine, image: str, output: str) -> list[str]:
    """Arguments that run the engine once on `image` (raw float32) and write its logits to `output`."""
    argv = [f"--loadEngine={engine.file}", f"--loadInputs={engine.input}:{image}", f"--exportOutput={output}"]
    argv += [*_shapes(engine), *_dla(engine), *_COPIES[major]]
    return [*argv, "--warmUp=0", "--duration=0", "--iterations=1"]


def time_argv(major: int, engine: Engine, seconds: int = 10) -> list[str]:
    """Arguments that time the engine for `seconds` after half a second, then its layers apart."""
    argv = [f"--loadEngine={engine.file}", *_shapes(engine), *_dla(engine), *_SAME[major]]
    argv += ["--warmUp=500", f"--duration={seconds}", "--iterations=200"]
    return [*argv, f"--exportTimes={TIMES}", f"--exportLayerInfo={LAYERS}", f"--exportProfile={PROFILE}"]


def _shapes(engine: Engine) -> list[str]:
    return [f"--shapes={engine.spec()}"] if engine.is_dynamic else []


def _dla(engine: Engine) -> list[str]:
    return [] if engine.dla_core is None else [f"--useDLACore={engine.dla_core}"]


# --- what it writes -----------------------------------------------------------------------------------------


def version_of(text: str) -> tuple[int, int, int]:
    """From the first line that trtexec prints, as `[TensorRT v100300]`; raises `FormatError`."""
    found = _BANNER.search(text)
    if found is None:
        raise FormatError("trtexec does not say which TensorRT it is of")
    major, minor, patch = (int(part) for part in found.groups())
    return major, minor, patch


def device_of(text: str) -> dict[str, str]:
    """What trtexec's log calls the GPU."""
    known = {"name": "Selected Device", "compute_capability": "Compute Capability"}
    found = {key: re.search(rf"{words}: (.+)", text) for key, words in known.items()}
    return {key: match.group(1).strip() for key, match in found.items() if match is not None}


def read_times(text: str) -> list[dict[str, float]]:
    """`--exportTimes`: of each run h2dMs, computeMs, d2hMs and latencyMs (their sum)."""
    runs = _loaded(text, list)
    if not runs:
        raise FormatError("trtexec timed no run")
    return [{key: _number(run, key) for key in _TIMES} for run in runs]


def read_profile(text: str) -> list[dict[str, Any]]:
    """`--exportProfile`: name and medianMs of every layer."""
    rows = _loaded(text, list)
    if not rows or not isinstance(rows[0], dict) or "count" not in rows[0]:
        raise FormatError("the profile of layers does not begin with their count")
    return [{"name": _text(row, "name"), "medianMs": _number(row, "medianMs")} for row in rows[1:]]


def read_layers(text: str) -> dict[str, Any]:
    """`--exportLayerInfo`: the inspector's JSON, of 10.x or 11.x."""
    found: dict[str, Any] = _loaded(text, dict)
    if not isinstance(found.get("Layers"), list):
        raise FormatError("the information about layers has no `Layers`")
    return found


def read_output(text: str) -> list[float]:
    """`--exportOutput`: values of the first output, with the six digits that trtexec prints."""
    rows = _loaded(text, list)
    values = rows[0].get("values") if rows and isinstance(rows[0], dict) else None
    if not isinstance(values, list) or not values:
        raise FormatError("the output holds no values")
    return [_finite(value, "values") for value in values]


def _loaded(text: str, kind: type) -> Any:
    try:
        found = json.loads(text, strict=False)  # names of layers hold separators that JSON forbids
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not the JSON that trtexec writes: {error}") from error
    if not isinstance(found, kind):
        raise FormatError(f"not the JSON that trtexec writes: a {type(found).__name__}")
    return found


def _number(row: Any, key: str) -> float:
    if not isinstance(row, dict) or key not in row:
        raise FormatError(f"an entry has no `{key}`")
    return _finite(row[key], key)


def _finite(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise FormatError(f"`{key}` holds {str(value)[:40]}, which is no finite number")
    return float(value)


def _text(row: Any, key: str) -> str:
    if not isinstance(row, dict) or not isinstance(row.get(key), str):
        raise FormatError(f"an entry has no `{key}`")
    return str(row[key])
