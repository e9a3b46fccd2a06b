"""Runs OpenVINO IR on the device: standard library, NumPy and OpenVINO, Python 3.8 and newer.

This file is pushed beside the agent and imported by path, its parts (openvino_*.py) beside it, so they import
nothing of edgekd. What the agent asks of any backend's runtime: `versions()`, `ArtifactError`,
`FallbackError`, `Unavailable` and `load(path, threads=, batch=, options=)` giving an object with `run`,
`profile`, `layers`, `input_shape` and `dtype`.
"""

from __future__ import annotations

import math
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

# `import openvino` otherwise reports itself to Google Analytics; without this package it cannot.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino as ov  # noqa: E402

if TYPE_CHECKING or __package__:
    from .openvino_file import PRECISION, Outline, check_file
    from .openvino_file import ArtifactError as ArtifactError
    from .openvino_kernels import averages, kernels, summarize, weighed_layers
else:  # on the device, where the files lie side by side
    _FOLDER = str(Path(__file__).resolve().parent)
    if _FOLDER not in sys.path:  # last: what else lies there hides nothing
        sys.path.append(_FOLDER)
    from openvino_file import PRECISION, ArtifactError, Outline, check_file
    from openvino_kernels import averages, kernels, summarize, weighed_layers

DEFAULT_DEVICE = "CPU"
HINTS = ("f32", "default")
_MAX_TENSOR_BYTES = 1 << 31
_INPUT_TYPES = {"f32": "float32", "f16": "float16"}
_BF16 = "bf16"
_NATIVE_BF16 = frozenset({"avx512_bf16", "amx_bf16", "avx_ne_convert"})
"""As Linux calls what an x86 processor needs to compute in bfloat16 itself."""


class Unavailable(Exception):
    """This processor cannot compute in the type that the file is for."""


class FallbackError(Exception):
    """The runtime would run the graph on another device, in another precision or with fewer threads."""


def versions() -> dict[str, str]:
    core = ov.Core()
    return {
        "openvino": ov.__version__,
        "device": str(core.get_property(DEFAULT_DEVICE, "FULL_DEVICE_NAME")),
        "capabilities": ", ".join(sorted(core.get_property(DEFAULT_DEVICE, "OPTIMIZATION_CAPABILITIES"))),
        "numpy": np.__version__,
    }


def load(path: str, threads: int = 1, batch: int = 1, options: dict[str, Any] | None = None) -> Graph:
    """Open the graph at `path` (.xml, its .bin beside it) for runs of `batch` images with `threads` threads.

    `options`: `device` (default CPU), `hint` (the float type to compute in: "f32", or "default" for the
    device's own choice, which is bf16 on some CPUs); a file that is for bf16 is computed so. Raises
    `ArtifactError` for truncated, hostile or unsuitable files and for a .bin of another export,
    `FallbackError` where OpenVINO would not do as asked, `Unavailable` for bf16 where there is none.
    """
    return Graph(path, threads, batch, options or {}, check_file(Path(path)))


class Graph:
    """A loaded graph: one float input of `input_shape` (`[batch, C, H, W]`), its first output the logits."""

    def __init__(
        self, path: str, threads: int, batch: int, options: dict[str, Any], outline: Outline
    ) -> None:
        self.path, self.threads, self.batch = path, threads, batch
        self.device, chosen = _choices(options)
        self.hint = _own_hint(outline) or chosen
        self._core = ov.Core()
        _check_device(self._core, self.device)
        if self.hint == _BF16:
            _check_bf16(self._core, self.device)
        compiled = self._compile(self._read(), profiling=False)
        source = compiled.input(0)
        self.input_shape: tuple[int, ...] = tuple(source.shape)
        self.dtype = np.dtype(_INPUT_TYPES[source.element_type.get_type_name()])
        self._request = compiled.create_infer_request()

    def run(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """float `[batch, ...]` to the logits `[batch, classes]`."""
        return _infer(self._request, x)

    def profile(self, x: npt.NDArray[Any] | None = None) -> dict[str, Any]:
        """What really ran, from one run of a separately compiled graph with profiling on.

        `ops` counts the kernels by kind (what was fused into one has no kernel of its own), `placement` by
        device, `precisions` by the type they computed in; `unexpected` names each kernel that computed
        int8 weights in float, or in another float than asked; `nodes` has name, op, provider, precision,
        kernel (OpenVINO's name of the implementation), layers (of the graph, that it computes or holds) and
        microseconds of each; `hint` is the float type that OpenVINO chose or was given.
        """
        if x is None:
            x = np.zeros(self.input_shape, self.dtype)
        model = self._read()
        compiled = self._compile(model, profiling=True)
        request = compiled.create_infer_request()
        _infer(request, x)
        device = ", ".join(compiled.get_property("EXECUTION_DEVICES"))
        nodes = kernels(compiled.get_runtime_model(), device, averages(request))
        chosen = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        return {**summarize(nodes, weighed_layers(model), self.hint), "hint": chosen}

    def layers(self, inputs: list[npt.NDArray[Any]], warm_up: int) -> list[dict[str, Any]]:
        """Microseconds of every kernel over `inputs` after the first `warm_up`, in running order.

        From a separately compiled graph with profiling on, which takes time of its own. OpenVINO keeps only
        the average of all runs, so `us` holds the average of those that count, once per run, and `averaged`
        is true: the runs' spread cannot be known. What takes less than a microsecond has 0.
        """
        compiled = self._compile(self._read(), profiling=True)
        request = compiled.create_infer_request()
        before: dict[str, float] = {}
        for number, x in enumerate(inputs, 1):
            _infer(request, x)
            if number == warm_up:
                before = averages(request)
        total, counted = len(inputs), len(inputs) - warm_up
        after = averages(request)
        found = kernels(compiled.get_runtime_model(), self.device, after)
        for node in found:
            name = node["name"]
            spent = after.get(name, 0) * total - before.get(name, 0) * warm_up
            node["us"] = [round(max(0.0, spent / max(1, counted)), 2)] * counted
            node["averaged"] = True
        return found

    def _read(self) -> Any:
        """The graph with its batch fixed; not kept, since the compiled one has its own weights."""
        weights = Path(self.path).with_suffix(".bin")
        files = [self.path, str(weights)] if weights.is_file() else [self.path]
        try:
            model = self._core.read_model(*files)
            model.reshape(_shape(model, self.batch))
        except RuntimeError as error:
            raise ArtifactError(f"OpenVINO refuses the graph: {_reason(error)}") from error
        _check_sizes(model)
        return model

    def _compile(self, model: Any, profiling: bool) -> Any:
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": self.threads,
            "ENABLE_CPU_PINNING": False,  # the agent chose the cores
            "ENABLE_HYPER_THREADING": True,  # else it takes no more threads than there are whole cores
            "PERF_COUNT": profiling,
        }
        if self.hint != "default":
            settings["INFERENCE_PRECISION_HINT"] = self.hint
        try:
            compiled = self._core.compile_model(model, self.device, settings)
        except RuntimeError as error:
            raise ArtifactError(f"OpenVINO refuses the graph: {_reason(error)}") from error
        self._check_obeyed(compiled)
        return compiled

    def _check_obeyed(self, compiled: Any) -> None:
        """Hints may be ignored without a word; raises `FallbackError`."""
        chosen = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if self.hint not in ("default", chosen):
            raise FallbackError(f"{self.hint} was asked for, {self.device} computes in {chosen}")
        threads = compiled.get_property("INFERENCE_NUM_THREADS")
        if threads != self.threads:
            raise FallbackError(f"{self.threads} threads were asked for, OpenVINO takes {threads} here")


def _infer(request: Any, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """One run straight from the caller's array; the result is copied, for the next run overwrites it."""
    request.set_input_tensor(ov.Tensor(np.ascontiguousarray(x), shared_memory=True))
    request.infer()
    return np.array(request.get_output_tensor(0).data)


# --- what was asked for -------------------------------------------------------------------------------------


def _choices(options: dict[str, Any]) -> tuple[str, str]:
    """Device and hint; raises `FallbackError` for a hint that would be ignored."""
    device, hint = options.get("device") or DEFAULT_DEVICE, options.get("hint") or HINTS[0]
    if hint not in HINTS:
        raise FallbackError(f"the hint {hint!r} is none of {', '.join(HINTS)}")
    return str(device), str(hint)


def _own_hint(outline: Outline) -> str | None:
    """The float type that the file is for; raises `ArtifactError` for one that is not known here."""
    wanted = outline.ours.get(PRECISION)
    if wanted not in (None, _BF16):
        raise ArtifactError(f"the file is for {wanted!r}, and this runtime knows {_BF16}")
    return wanted


def _check_bf16(core: Any, device: str) -> None:
    """OpenVINO also emulates bfloat16, which is no way to measure it; raises `Unavailable`."""
    told = _BF16.upper() in core.get_property(device, "OPTIMIZATION_CAPABILITIES")
    x86 = platform.machine() in ("x86_64", "AMD64")
    if not told or (device == DEFAULT_DEVICE and x86 and not _NATIVE_BF16 & _x86_flags()):
        raise Unavailable(f"this {device} has no bfloat16")


def _x86_flags() -> frozenset[str]:
    """What the processor can do; where the system does not tell, OpenVINO is believed."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return _NATIVE_BF16
    return frozenset(next((line.split() for line in lines if line.startswith("flags")), []))


def _check_device(core: Any, device: str) -> None:
    """Virtual devices (AUTO, HETERO) choose for themselves, so they are not there either."""
    # Looking for the others opens the libraries of every device, whose memory would be measured.
    if device != DEFAULT_DEVICE and device not in core.available_devices:
        raise FallbackError(f"there is no device {device!r} here, only {core.available_devices}")


def _shape(model: Any, batch: int) -> list[int]:
    """The input's shape for this batch; raises `ArtifactError` unless only the batch is dynamic."""
    if len(model.inputs) != 1:
        raise ArtifactError(f"needs exactly one input, has {len(model.inputs)}")
    kind, shape = model.input(0).element_type.get_type_name(), model.input(0).partial_shape
    if kind not in _INPUT_TYPES:
        raise ArtifactError(f"the input is {kind}, not one of {sorted(_INPUT_TYPES)}")
    sizes = [] if shape.rank.is_dynamic else [0 if d.is_dynamic else d.get_length() for d in shape]
    if sizes and shape[0].is_dynamic:
        sizes[0] = batch
    if not sizes or 0 in sizes:
        raise ArtifactError(f"only the batch may be dynamic and no size 0, the input is {shape}")
    if sizes[0] != batch:
        raise ArtifactError(f"the batch is fixed to {sizes[0]}, {batch} was asked for")
    return sizes


def _check_sizes(model: Any) -> None:
    """Raises `ArtifactError` before memory is asked for that no classifier needs."""
    for node in model.get_ordered_ops():
        for port in node.outputs():
            if port.get_partial_shape().is_static:
                size = math.prod(port.get_partial_shape().to_shape()) * port.get_element_type().size
                if size > _MAX_TENSOR_BYTES:
                    raise ArtifactError(f"{node.get_friendly_name()} would need {size} bytes")


def _reason(error: Exception) -> str:
    """What OpenVINO says, without the lines of its own source."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return " ".join(said or lines)[:500]
