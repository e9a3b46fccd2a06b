"""Runs OpenVINO IR on the device: standard library, NumPy and OpenVINO, Python 3.8 and newer.

This file is pushed beside the agent and imported by path, so it imports nothing of edgekd. What the agent
asks of any backend's runtime: `versions()`, `ArtifactError`, `FallbackError` and `load(path, threads=,
batch=, options=)` giving an object with `run`, `profile`, `layers`, `input_shape` and `dtype`.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np
import numpy.typing as npt

# `import openvino` otherwise reports itself to Google Analytics; without this package it cannot.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino as ov  # noqa: E402

DEFAULT_DEVICE = "CPU"
HINTS = ("f32", "default")
_MAX_XML_BYTES = 256 << 20
_MAX_DEPTH = 64
_MAX_TENSOR_BYTES = 1 << 31
_DIGEST = ["net", "rt_info", "edgekd", "weights_sha256"]
"""Where the exporter wrote the digest of the .bin."""
_INPUT_TYPES = {"f32": "float32", "f16": "float16"}
_INTEGERS = ("i8", "u8")
_LOWER_FLOATS = ("bf16", "f16")
_WEIGHED = ("Convolution", "GroupConvolution", "MatMul", "ConvolutionBackpropData")
_NO_WORK = ("Input", "Output", "Const")


class ArtifactError(Exception):
    """The files are not a graph that may be run here."""


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
    device's own choice, which is bf16 on some CPUs). Raises `ArtifactError` for truncated, hostile or
    unsuitable files and for a .bin of another export, `FallbackError` where OpenVINO would not do as asked.
    """
    check_file(Path(path))
    return Graph(path, threads, batch, options or {})


class Graph:
    """A loaded graph: one float input of `input_shape` (`[batch, C, H, W]`), its first output the logits."""

    def __init__(self, path: str, threads: int, batch: int, options: dict[str, Any]) -> None:
        self.path, self.threads, self.batch = path, threads, batch
        self.device, self.hint = _choices(options)
        self._core = ov.Core()
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
        int8 weights in float, or in a shorter float than asked; `nodes` has name, op, provider, precision,
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
        nodes = _kernels(compiled.get_runtime_model(), device, _averages(request))
        chosen = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        return {**summarize(nodes, integer_layers(model), self.hint), "hint": chosen}

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
                before = _averages(request)
        total, counted = len(inputs), len(inputs) - warm_up
        after = _averages(request)
        found = _kernels(compiled.get_runtime_model(), self.device, after)
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
        _check_device(self._core, self.device)
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


# --- what ran -----------------------------------------------------------------------------------------------


def summarize(nodes: list[dict[str, Any]], integer: dict[str, str], hint: str) -> dict[str, Any]:
    """Executed kernels, counted; `integer`: from `integer_layers`; `hint`: the float type asked for."""
    keys = {"ops": "op", "placement": "provider", "precisions": "precision"}
    counts = {name: dict(Counter(node[key] for node in nodes)) for name, key in keys.items()}
    return {**counts, "unexpected": _unexpected(nodes, integer, hint), "nodes": nodes}


def _unexpected(nodes: list[dict[str, Any]], integer: dict[str, str], hint: str) -> list[str]:
    pairs = [(layer, node) for node in nodes for layer in node["layers"]]
    # A kernel may be called after the dequantization that OpenVINO puts behind the layer.
    computed_by = {**{layer.split("/Dequantization")[0]: node for layer, node in pairs}, **dict(pairs)}
    found = []
    for layer, codes in integer.items():
        node = computed_by.get(layer) or computed_by.get(codes)
        if node is None:
            found.append(f"{layer} has int8 weights, and no kernel says that it computes it")
        elif node["precision"] not in _INTEGERS:
            found.append(f"{layer} ({node['op']}) has int8 weights and ran in {node['precision']}")
    if hint == "f32":
        found += [
            f"{node['name']} ({node['op']}) ran in {node['precision']}, f32 was asked for"
            for node in nodes
            if node["precision"] in _LOWER_FLOATS
        ]
    return found


def _precision(about: dict[str, str]) -> str:
    """What a kernel computes in: where only weights are stored in half, OpenVINO gives the weights' type."""
    precision = about.get("runtimePrecision", "?")
    on_float32 = about.get("primitiveType", "").lower().endswith("_f32")
    return "f32" if on_float32 and precision in _LOWER_FLOATS else precision


def _kernels(executed: Any, device: str, us: dict[str, float]) -> list[dict[str, Any]]:
    """The kernels of one run, in running order, from the graph that OpenVINO made of the model.

    Left out: what has no work at run time, that is inputs and constants, what is computed from constants
    alone when the graph is compiled, and views of the same memory (whose implementation is "unknown").
    """
    constants: set[str] = set()
    found: list[dict[str, Any]] = []
    for node in executed.get_ordered_ops():
        about = {key: str(value.astype(str)) for key, value in node.get_rt_info().items()}
        name, op = node.get_friendly_name(), about.get("layerType", node.get_type_name())
        sources = [port.get_source_output().get_node().get_friendly_name() for port in node.inputs()]
        held = sorted(constants.intersection(sources))
        if op == "Const" or (sources and constants.issuperset(sources)):
            constants.add(name)
        elif op not in _NO_WORK and not about.get("primitiveType", "").startswith("unknown"):
            found.append(
                {
                    "name": name,
                    "op": op,
                    "provider": device,
                    "precision": _precision(about),
                    "kernel": about.get("primitiveType", "?"),
                    "layers": about.get("originalLayersNames", "").split(",") + held,
                    "us": us.get(name, 0),
                }
            )
    return found


def _averages(request: Any) -> dict[str, float]:
    """Microseconds of every kernel: the average of all runs of its compiled graph, as OpenVINO keeps it."""
    return {about.node_name: about.real_time.total_seconds() * 1e6 for about in request.profiling_info}


def integer_layers(model: Any) -> dict[str, str]:
    """Names of the operations whose weights are int8 codes, and of the constants that hold these."""
    found = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() in _WEIGHED:
            source = node.input_value(1).get_node()
            while source.get_input_size():  # Convert, Subtract, Multiply, Reshape
                source = source.input_value(0).get_node()
            if (
                source.get_type_name() == "Constant"
                and source.get_element_type().get_type_name() in _INTEGERS
            ):
                found[node.get_friendly_name()] = source.get_friendly_name()
    return found


# --- files --------------------------------------------------------------------------------------------------


def check_file(path: Path) -> None:
    """Raises `ArtifactError` unless `path` is whole IR and the .bin beside it is of the same export."""
    if not path.is_file():
        raise ArtifactError(f"there is no file {path.name}")
    if path.stat().st_size > _MAX_XML_BYTES:
        raise ArtifactError("the .xml is absurdly large")
    outline = Outline(path)
    if outline.reads_weights:
        _check_weights(path.with_suffix(".bin"), outline)


def _check_weights(weights: Path, outline: Outline) -> None:
    if not weights.is_file():
        raise ArtifactError(f"its weights are missing: {weights.name}")
    size = weights.stat().st_size
    if size < outline.weights_end:
        raise ArtifactError(f"{weights.name} is cut: {size} bytes, the graph reads {outline.weights_end}")
    if outline.digest is None:
        raise ArtifactError("does not say which weights are its own: export it with edgekd")
    digest = _sha256(weights)
    if digest != outline.digest:
        raise ArtifactError(f"{weights.name} is damaged or of another export: its sha256 is {digest}")


def _sha256(path: Path) -> str:
    """Read in small pieces, so that the file does not count in the peak memory."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for piece in iter(lambda: stream.read(1 << 16), b""):
            digest.update(piece)
    return digest.hexdigest()


class Outline:
    """What is looked at in an .xml before OpenVINO reads it: its form, and which weights it wants."""

    def __init__(self, path: Path) -> None:
        """Raises `ArtifactError` for what is no IR, is cut, nests without end or declares entities."""
        self.reads_weights = False
        self.weights_end = 0  # bytes that the .bin must have
        self.digest: str | None = None
        self._at: list[str] = []
        parser = expat.ParserCreate("utf-8")
        parser.StartDoctypeDeclHandler = self._refuse_doctype
        parser.StartElementHandler = self._start
        parser.EndElementHandler = lambda name: self._at.pop()
        try:
            with path.open("rb") as stream:
                parser.ParseFile(stream)
        except expat.ExpatError as error:
            raise ArtifactError(f"not an OpenVINO IR, or cut short: {error}") from error

    def _refuse_doctype(self, *_: Any) -> None:
        raise ArtifactError("not an OpenVINO IR: it declares a document type, as entity bombs do")

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._at.append(name)
        if self._at[0] != "net":
            raise ArtifactError(f"not an OpenVINO IR: it starts with <{name[:40]}>")
        if len(self._at) > _MAX_DEPTH:
            raise ArtifactError(f"elements are nested deeper than {_MAX_DEPTH}")
        if name == "data" and "offset" in attributes:
            self._add_weights(attributes)
        if self._at == _DIGEST:
            self.digest = attributes.get("value")

    def _add_weights(self, attributes: dict[str, str]) -> None:
        try:
            offset, size = int(attributes["offset"]), int(attributes["size"])
        except (KeyError, ValueError) as error:
            raise ArtifactError(f"a constant does not say where its weights are: {error}") from error
        if offset < 0 or size < 0:
            raise ArtifactError(f"a constant reads {size} bytes at {offset}")
        self.reads_weights = True
        self.weights_end = max(self.weights_end, offset + size)


# --- what was asked for -------------------------------------------------------------------------------------


def _choices(options: dict[str, Any]) -> tuple[str, str]:
    """Device and hint; raises `FallbackError` for a hint that would be ignored."""
    device, hint = options.get("device") or DEFAULT_DEVICE, options.get("hint") or HINTS[0]
    if hint not in HINTS:
        raise FallbackError(f"the hint {hint!r} is none of {', '.join(HINTS)}")
    return str(device), str(hint)


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
