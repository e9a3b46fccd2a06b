"""Runs an ONNX graph on the device: standard library, NumPy and ONNX Runtime, Python 3.8 and newer.

This file is pushed beside the agent and imported by path, so it imports nothing of edgekd. What the agent
asks of any backend's runtime: `versions()`, `ArtifactError`, `FallbackError` and `load(path, threads=,
batch=, options=)` giving an object with `run`, `profile`, `layers`, `input_shape` and `dtype`.
"""

from __future__ import annotations

import json
import mmap
import os
import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Iterator  # noqa: UP035 - typing's own, for Python 3.8

# The Linux wheel otherwise starts one more thread and writes under the user's cache folder.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

DEFAULT_PROVIDERS = ("CPUExecutionProvider",)
_MAX_DEPTH = 64
_INPUT_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16"}
_KERNEL = "_kernel_time"
_PRECISIONS = {"float": "f32", "float16": "f16", "bfloat16": "bf16", "uint8": "u8", "int8": "i8"}
"""ONNX Runtime's name of a kernel's first input -> what it computes in."""

# Which fields of the ONNX protobuf lead to a tensor that may name a file (onnx/onnx.proto).
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}


class ArtifactError(Exception):
    """The file is not a graph that may be run here."""


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

    `options`: `providers` (execution providers in order, default the CPU's), `config` (session entries).
    Raises `ArtifactError` for a truncated, hostile or unsuitable file, `FallbackError` when a provider that
    was asked for is not there.
    """
    check_file(Path(path))
    return Graph(path, threads, batch, options or {})


class Graph:
    """A loaded graph: one float input of `input_shape` (`[batch, C, H, W]`), its first output the logits."""

    def __init__(self, path: str, threads: int, batch: int, options: dict[str, Any]) -> None:
        self.path, self.threads, self.batch, self.options = path, threads, batch, options
        self.providers: list[str] = list(options.get("providers") or DEFAULT_PROVIDERS)
        self._session = self._open(None)
        source = _single_input(self._session)
        self.input_name: str = source.name
        self.input_shape = _input_shape(source, batch)
        self.dtype = np.dtype(_INPUT_TYPES[source.type])
        self._outputs = [self._session.get_outputs()[0].name]

    def run(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """float `[batch, ...]` to the logits `[batch, classes]`."""
        logits: npt.NDArray[Any] = self._session.run(self._outputs, {self.input_name: x})[0]
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
            session = ort.InferenceSession(self.path, settings, providers=self.providers)
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


def check_file(path: Path) -> None:
    """Raises `ArtifactError` unless `path` is a whole ONNX file that reads nothing outside its own folder."""
    if not path.is_file():
        raise ArtifactError(f"there is no file {path.name}")
    if path.stat().st_size == 0:
        raise ArtifactError("the file is empty")
    locations: list[str] = []
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        # Mapped, so that weights, which are skipped, do not count in the peak memory.
        if not _collect(content, 0, len(content), "model", 0, locations):
            raise ArtifactError("not an ONNX file: it holds no graph")
    for location in locations:
        _check_location(path.resolve().parent, location)


def _check_location(folder: Path, location: str) -> None:
    odd = "\\" in location or "\0" in location or Path(location).is_absolute()
    real = folder if odd else Path(folder, location).resolve()
    if folder not in real.parents:
        raise ArtifactError(f"external data outside the model's folder: {location!r}")
    if not real.is_file():
        raise ArtifactError(f"external data is missing: {location!r}")


def _collect(data: mmap.mmap, start: int, end: int, kind: str, depth: int, locations: list[str]) -> int:
    """Walk one protobuf message, append every external file name below it, count the messages below it."""
    if depth > _MAX_DEPTH:
        raise ArtifactError(f"graphs are nested deeper than {_MAX_DEPTH}")
    if kind == "entry":
        return _collect_entry(data, start, end, locations)
    known, count = _FIELDS[kind], 0
    for field, low, high in _fields(data, start, end):
        if field in known:
            _collect(data, low, high, known[field], depth + 1, locations)
            count += 1
    return count


def _collect_entry(data: mmap.mmap, start: int, end: int, locations: list[str]) -> int:
    """A key and value beside a tensor; repeated fields: the last one counts, as in protobuf."""
    pair = {field: data[low:high] for field, low, high in _fields(data, start, end)}
    if pair.get(1) == b"location":
        locations.append(pair.get(2, b"").decode("utf-8", "replace"))
    return 1


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, start, end) of each length-delimited field of one protobuf message."""
    at = start
    while at < end:
        tag, at = _varint(data, at, end)
        kind, low = tag & 7, at
        if kind == 0:
            _, at = _varint(data, at, end)
        elif kind == 2:
            size, low = _varint(data, at, end)
            at = low + size
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ArtifactError(f"not an ONNX file (wire type {kind} at byte {low})")
        if at > end:
            raise ArtifactError(f"not an ONNX file, or cut short (byte {low})")
        if kind == 2:
            yield tag >> 3, low, at


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at
    raise ArtifactError(f"not an ONNX file, or cut short (byte {at})")


def _settings(threads: int, batch: int, options: dict[str, Any]) -> ort.SessionOptions:
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3
    settings.add_free_dimension_override_by_name("batch", batch)
    for key, value in (options.get("config") or {}).items():
        settings.add_session_config_entry(key, str(value))
    return settings


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
