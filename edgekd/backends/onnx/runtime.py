"""Runs an ONNX graph on the device: standard library, NumPy and ONNX Runtime, Python 3.8 and newer.

This file is pushed beside the agent and imported by path, its parts (onnx_*.py) beside it, so they import
nothing of edgekd. What the agent asks of any backend's runtime: `versions()`, `ArtifactError`,
`FallbackError` and `load(path, threads=, batch=, options=)` giving an object with `run`, `profile`, `layers`,
`input_shape` and `dtype`, and, where it can tell, `compute_ms(runs)`: milliseconds of each run of the last
input without copies and starting it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

# The Linux wheel otherwise starts one more thread and writes under the user's cache folder.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

if TYPE_CHECKING or __package__:
    from .onnx_file import ArtifactError as ArtifactError
    from .onnx_file import Outline, as_named
    from .onnx_file import check_file as check_file
    from .onnx_memory import limit_to_what_is_free
else:  # on the device, where the files lie side by side
    _FOLDER = str(Path(__file__).resolve().parent)
    if _FOLDER not in sys.path:  # last: what else lies there hides nothing
        sys.path.append(_FOLDER)
    from onnx_file import ArtifactError, Outline, as_named, check_file
    from onnx_memory import limit_to_what_is_free

DEFAULT_PROVIDERS = ("CPUExecutionProvider",)
_INPUT_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}
_KERNEL = "_kernel_time"
_PRECISIONS = {"float": "f32", "float16": "f16", "bfloat16": "bf16", "uint8": "u8", "int8": "i8"}
"""ONNX Runtime's name of a kernel's first input -> what it computes in."""
LEVELS = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
"""How far ONNX Runtime may change the graph before it runs it."""


class FallbackError(Exception):
    """The runtime would run the graph somewhere else than asked."""


def versions() -> dict[str, str]:
    return {
        "onnxruntime": ort.__version__,
        "build": ort.get_build_info(),
        "providers": ", ".join(ort.get_available_providers()),
        "numpy": np.__version__,
    }


def load(path: str, threads: int = 1, batch: int = 1, options: dict[str, Any] | None = None) -> Graph:
    """Open the graph at `path` for runs of `batch` images with `threads` threads.

    `options`: `providers` (execution providers in order, default the CPU's), `optimization` (one of `LEVELS`,
    default all), `config` (session entries). Raises `ArtifactError` for a truncated, hostile or unsuitable
    file, `FallbackError` when a provider or a level that was asked for is not there.
    """
    outline = check_file(Path(path))
    if not __package__ and set((options or {}).get("providers") or DEFAULT_PROVIDERS) == {*DEFAULT_PROVIDERS}:
        limit_to_what_is_free()  # only a process of the agent's own, and no GPU's, which maps at will
    return Graph(path, threads, batch, options or {}, outline)


class Graph:
    """A loaded graph: one float input of `input_shape` (`[batch, C, H, W]`), its first output the logits.

    One whose `dtype` is uint8 normalizes by itself: it takes pixels `[batch, H, W, C]`.
    """

    def __init__(
        self, path: str, threads: int, batch: int, options: dict[str, Any], outline: Outline
    ) -> None:
        self.path, self.threads, self.batch, self.options = path, threads, batch, options
        self._outline = outline
        self.providers: list[str] = list(options.get("providers") or DEFAULT_PROVIDERS)
        self._session = self._open(None)
        source = _single_input(self._session)
        self.input_name: str = source.name
        self.input_shape = _input_shape(source, batch)
        self.dtype = np.dtype(_INPUT_TYPES[source.type])
        self._outputs = [self._session.get_outputs()[0].name]

    def run(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """float `[batch, ...]` to the logits `[batch, classes]`. Raises `ArtifactError`."""
        try:
            logits: npt.NDArray[Any] = self._session.run(self._outputs, {self.input_name: x})[0]
        except Exception as error:  # ONNX Runtime's own exceptions share no public base
            raise ArtifactError(f"ONNX Runtime cannot run the graph: {error}") from error
        return logits

    def profile(self, x: npt.NDArray[Any] | None = None) -> dict[str, Any]:
        """What really ran, from one run of a separate session with profiling on.

        `ops` counts the executed kernels by operator (fused ones under their own name, as `QLinearConv`),
        `placement` the kernels by execution provider, `precisions` by the type they read; `unexpected` names
        each kernel that ran on another provider than the first one asked for; `nodes` has name, op, provider,
        precision and microseconds of each.
        """
        if x is None:
            x = np.zeros(self.input_shape, self.dtype)
        return summarize(self._events([x]), self.providers[0])

    def layers(self, inputs: list[npt.NDArray[Any]], warm_up: int) -> list[dict[str, Any]]:
        """Microseconds of every kernel in each run over `inputs` after the first `warm_up`, in running order.

        From a separate session with profiling on, which takes time of its own; `name`, `op`, `provider` and
        `us`, one whole number per run, as ONNX Runtime gives them.
        """
        found: dict[str, dict[str, Any]] = {}
        for node in _nodes(self._events(inputs)):
            entry = found.setdefault(node["name"], {**node, "us": []})
            entry["us"].append(node["us"])
        return [{**entry, "us": entry["us"][warm_up:]} for entry in found.values()]

    def _events(self, inputs: list[npt.NDArray[Any]]) -> list[dict[str, Any]]:
        """ONNX Runtime's own account of one run per input."""
        folder = tempfile.mkdtemp(prefix="edgekd-profile-")
        try:
            session = self._open(str(Path(folder, "profile")))
            for x in inputs:
                session.run(self._outputs, {self.input_name: x})
            events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_bytes())
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return events

    def _open(self, profile_prefix: str | None) -> ort.InferenceSession:
        _check_providers(self.providers)
        settings = _settings(self.threads, self.batch, self.options)
        if profile_prefix is not None:
            settings.enable_profiling = True
            settings.profile_file_prefix = profile_prefix
        try:
            with as_named(Path(self.path), self._outline) as named:
                session = ort.InferenceSession(str(named), settings, providers=self.providers)
        except Exception as error:  # ONNX Runtime's own exceptions share no public base
            raise ArtifactError(f"ONNX Runtime refuses the graph: {error}") from error
        session.disable_fallback()
        if session.get_providers()[0] != self.providers[0]:
            raise FallbackError(f"{self.providers} was asked for, {session.get_providers()} is used")
        return session


def summarize(events: list[dict[str, Any]], provider: str) -> dict[str, Any]:
    """ONNX Runtime's profile events of one run, counted; `provider` is where every kernel should have run."""
    nodes = _nodes(events)
    keys = {"ops": "op", "placement": "provider", "precisions": "precision"}
    counted = {name: dict(Counter(node[key] for node in nodes)) for name, key in keys.items()}
    unexpected = [
        f"{n['name']} ({n['op']}) ran on {n['provider']}" for n in nodes if n["provider"] != provider
    ]
    return {**counted, "unexpected": unexpected, "nodes": nodes}


def _nodes(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Name, operator, provider, precision and microseconds of each kernel that ran."""
    return [
        {
            "name": event["name"][: -len(_KERNEL)],
            "op": event["args"]["op_name"],
            "provider": event["args"]["provider"],
            "precision": _precision(event["args"].get("input_type_shape")),
            "us": event["dur"],
        }
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL)
    ]


def _precision(inputs: list[dict[str, Any]] | None) -> str:
    name = next(iter(inputs[0]), "?") if inputs else "?"
    return _PRECISIONS.get(name, name)


# --- what was asked for -------------------------------------------------------------------------------------


def _settings(threads: int, batch: int, options: dict[str, Any]) -> ort.SessionOptions:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    settings.graph_optimization_level = _level(options)
    settings.add_free_dimension_override_by_name("batch", batch)
    for key, value in (options.get("config") or {}).items():
        settings.add_session_config_entry(key, str(value))
    return settings


def _level(options: dict[str, Any]) -> Any:
    wanted = options.get("optimization") or "all"
    if wanted not in LEVELS:
        raise FallbackError(f"the optimization {wanted!r} is none of {', '.join(LEVELS)}")
    return LEVELS[wanted]


def _check_providers(providers: list[str]) -> None:
    missing = [name for name in providers if name not in ort.get_available_providers()]
    if missing:
        raise FallbackError(f"{missing} not in this build, which has {ort.get_available_providers()}")


def _single_input(session: ort.InferenceSession) -> Any:
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise ArtifactError(f"needs exactly one input, has {[source.name for source in inputs]}")
    if inputs[0].type not in _INPUT_TYPES:
        raise ArtifactError(f"the input is {inputs[0].type}, not one of {sorted(_INPUT_TYPES)}")
    return inputs[0]


def _input_shape(source: Any, batch: int) -> tuple[int, ...]:
    shape = tuple(source.shape)
    if not shape or not all(isinstance(size, int) and size > 0 for size in shape):
        raise ArtifactError(f"only the dimension `batch` may be dynamic, the input is {list(shape)}")
    if shape[0] != batch:
        raise ArtifactError(f"the batch is fixed to {shape[0]}, {batch} was asked for")
    return shape
