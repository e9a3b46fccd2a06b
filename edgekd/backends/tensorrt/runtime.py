"""Builds and runs a TensorRT engine on the device: standard library, NumPy, TensorRT; Python 3.8 and newer.

This file is pushed beside the agent and imported by path, so it imports nothing of edgekd; what the agent
asks of it is said in `edgekd/backends/onnx/runtime.py`. The engine of an ONNX file is built by the TensorRT
of the machine for its GPU, and kept in a folder of the user's under all that it depends on; one that was
built for anything else is never opened. CUDA is called through ctypes. TensorRT is imported when it is first
needed, so that `build_engine` serves TensorRT-RTX, too: that builds without a GPU, and is what was executed.

Of the rest no line that needs a GPU was executed: no GPU. Names and signatures were held against the real
bindings of TensorRT 10.3, 10.16 and 11.4 (`api_check`), and against the CUDA runtimes 12.9 and 13.5.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib
import json
import mmap
import os
import re
import sys
import uuid
import weakref
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, NamedTuple, Sequence, Tuple  # noqa: UP035 - Python 3.8

import numpy as np
import numpy.typing as npt

Batches = Tuple[int, int, int]  # noqa: UP006
"""Smallest, usual and largest."""

MAJORS = (10, 11)
OPTIONS = "tensorrt"
"""The entry of a target's options that holds the `Settings`."""
_KINDS = {
    "a whole number": ("workspace_mib", "optimization_level", "dla_core"),
    "true or false": ("version_compatible", "tf32", "timing_cache", "cuda_graph"),
    "a text": ("hardware_compatibility", "cache"),
    "three whole numbers": ("batches",),
}
_MAGIC = b"edgekd-tensorrt 1\n"
_LARGEST_MANIFEST = 1 << 20
_MAX_DEPTH = 64
_NO_WORK = ("NoOp", "Constant")
_PRECISIONS = (
    ("bf16", r"bf16|bfloat16"),
    ("fp8", r"fp8"),
    ("int8", r"int8"),
    ("fp16", r"fp16|half"),
    ("fp32", r"fp32|float"),
)
"""In TensorRT's words; the first that is found counts."""

# Which fields of the ONNX protobuf lead to a tensor that may name a file (onnx/onnx.proto).
_FIELDS: Dict[str, Dict[int, str]] = {  # noqa: UP006
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
    "tensor": {13: "external"},
}


class ArtifactError(Exception):
    """The file is not a graph that TensorRT builds an engine of."""


class FallbackError(Exception):
    """TensorRT would do something else than asked."""


class Unavailable(RuntimeError):
    """There is no TensorRT or no GPU here."""


class CudaError(RuntimeError):
    """A call of the CUDA runtime failed."""


class Stale(Exception):
    """What is kept is not what is looked for; the message says why."""


class Settings(NamedTuple):
    """What may be asked for under `tensorrt` in a target's options."""

    workspace_mib: int = 1024
    optimization_level: int | None = None
    """0 to 5; TensorRT's own default is 3."""
    hardware_compatibility: str | None = None
    """`AMPERE_PLUS`, or `SAME_COMPUTE_CAPABILITY` where the version has it."""
    version_compatible: bool = False
    dla_core: int | None = None
    """Run on this DLA core; what it cannot run goes to the GPU, and is named."""
    tf32: bool = False
    """Let float32 products be computed with 10 bits of mantissa, which is TensorRT's own default."""
    batches: Sequence[int] | None = None
    """Smallest, usual and largest batch of the engine; default: the one that is run, three times."""
    timing_cache: bool = True
    """Keep the times of kernels beside the engines, for the next build."""
    cuda_graph: bool = False
    cache: str | None = None
    """Folder for engines; default: `tensorrt` in edgekd's cache folder."""

    def of_engine(self) -> dict[str, Any]:
        """Those that the engine depends on."""
        others = ("batches", "timing_cache", "cuda_graph", "cache")
        return {name: value for name, value in self._asdict().items() if name not in others}


class Built(NamedTuple):
    """An engine, and what was learned when it was built."""

    engine: bytes
    layers: dict[str, str]
    """Name in the ONNX file -> precision, of every convolution and matrix product."""
    timing_cache: bytes | None


def versions() -> dict[str, str]:
    """Raises `Unavailable`."""
    trt, cuda = _tensorrt(), open_cuda()
    about = cuda.device()
    return {
        "tensorrt": str(trt.__version__),
        "cuda_runtime": cuda.version("Runtime"),
        "cuda_driver": cuda.version("Driver"),
        "gpu": about["name"],
        "compute_capability": about["compute_capability"],
        "numpy": np.__version__,
    }


def load(path: str, threads: int = 1, batch: int = 1, options: dict[str, Any] | None = None) -> Graph:
    """Open the engine of the ONNX file at `path` for runs of `batch` images; builds it where none is kept.

    `options["tensorrt"]`: `Settings`. `threads` means nothing on a GPU. Raises `ArtifactError` for a
    truncated, hostile or unsuitable file, `FallbackError` for settings that would not be obeyed,
    `Unavailable` without TensorRT or a GPU.
    """
    settings = settings_of(options or {})
    check_file(Path(path))
    return Graph(_tensorrt(), open_cuda(), Path(path), batch, settings)


def settings_of(options: dict[str, Any]) -> Settings:
    """Raises `FallbackError` for what would be ignored."""
    asked = options.get(OPTIONS) or {}
    if not isinstance(asked, dict) or set(asked) - set(Settings._fields):
        raise FallbackError(f"options under `{OPTIONS}` are {', '.join(Settings._fields)}, not {asked!r}")
    settings = Settings(**asked)
    for kind, names in _KINDS.items():
        for name in names:
            value = getattr(settings, name)
            if not (_is(kind, value) or value is None):
                raise FallbackError(f"`{OPTIONS}.{name}` must be {kind}, is {value!r}")
    return settings


def _is(kind: str, value: Any) -> bool:
    if kind == "three whole numbers":
        return isinstance(value, (list, tuple)) and all(_is("a whole number", one) for one in value)
    if kind == "a whole number":
        return type(value) is int and value >= 0
    return isinstance(value, bool if kind == "true or false" else str)


def batches_of(settings: Settings, batch: int) -> Batches:
    """Raises `FallbackError` where `batch` is not among them."""
    if settings.batches is None:
        return batch, batch, batch
    sizes = list(settings.batches)
    if len(sizes) != 3 or sizes != sorted(sizes) or not sizes[0] <= batch <= sizes[2]:
        raise FallbackError(
            f"`{OPTIONS}.batches` is smallest, usual, largest, with {batch} among them, not {sizes}"
        )
    return sizes[0], sizes[1], sizes[2]


class Graph:
    """An engine: one float input of `input_shape` (`[batch, C, H, W]`), its first output the logits."""

    def __init__(self, trt: Any, cuda: Cuda, path: Path, batch: int, settings: Settings) -> None:
        self._trt, self._cuda, self._settings = trt, cuda, settings
        self._log = logger_of(trt)
        engine, self.about = engine_of(trt, cuda.device(), path, batch, settings, self._log)
        self._engine = _opened(trt, engine, settings, self._log)
        self._context = self._engine.create_execution_context()
        self._stream = cuda.stream()
        self._source, self._results = self._tensors(batch)
        self.input_shape, self.dtype = self._source.shape, self._source.dtype
        self._bind(self._context)
        self._whole: Callable[[], None] = self._enqueue_whole
        self._compute: Callable[[], None] = self._enqueue
        if settings.cuda_graph:
            self._whole, self._compute = self._captured(self._whole), self._captured(self._compute)

    def run(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """float `[batch, ...]` to the logits `[batch, classes]`: host to host, through pinned memory."""
        if tuple(x.shape) != self.input_shape:
            raise ValueError(f"the input must be {self.input_shape}, is {tuple(x.shape)}")
        np.copyto(self._source.host, x)
        self._whole()
        self._cuda.wait(self._stream)
        return np.array(self._results[0].host)

    def compute_ms(self, runs: int, warm_up: int = 10) -> list[float]:
        """Of each run on the input that was last given, milliseconds between two events on the GPU around the
        network alone: without copies, and without what starting it costs the CPU."""
        before, after = self._cuda.event(), self._cuda.event()
        found = []
        for number in range(warm_up + runs):
            self._cuda.record(before, self._stream)
            self._compute()
            self._cuda.record(after, self._stream)
            self._cuda.wait(self._stream)
            if number >= warm_up:
                found.append(self._cuda.elapsed_ms(before, after))
        return found

    def profile(self, x: npt.NDArray[Any] | None = None) -> dict[str, Any]:
        """What the engine holds, in the words of its inspector; see `summarize`. Nothing is run.

        `engine` says where it came from: `kept`, or `built` and why.
        """
        found = summarize(self._information(), self.about["layers"], self._settings)
        return {**found, "engine": self.about["engine"]}

    def layers(self, inputs: list[npt.NDArray[Any]], warm_up: int) -> list[dict[str, Any]]:
        """Microseconds of every kernel in each run over `inputs` after the first `warm_up`, in running order.

        In a context of its own with TensorRT's profiler, which waits after every kernel.
        """
        profiler = _profiler_of(self._trt)
        context = self._engine.create_execution_context()
        self._bind(context)
        context.profiler = profiler
        for x in inputs:
            np.copyto(self._source.host, x)
            self._copy_in()
            self._enqueue(context)
            self._cuda.wait(self._stream)
        nodes = {node["name"]: node for node in nodes_of(self._information())}
        unknown = {"op": "?", "provider": "?", "precision": "?"}
        return [
            {"name": name, **nodes.get(name, unknown), "us": us[warm_up:]} for name, us in profiler.us.items()
        ]

    def _information(self) -> dict[str, Any]:
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._context
        text = inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)
        found: dict[str, Any] = json.loads(text, strict=False)
        return found

    def _tensors(self, batch: int) -> tuple[Memory, list[Memory]]:
        """Memory of the one input and of all outputs, in the order of the file."""
        engine, trt = self._engine, self._trt
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        sources = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        if len(sources) != 1:
            raise ArtifactError(f"needs exactly one input, has {sources}")
        shape = (batch, *tuple(engine.get_tensor_shape(sources[0]))[1:])
        if not self._context.set_input_shape(sources[0], shape):
            raise ArtifactError(f"the engine does not take {shape}")
        return self._memory(sources[0]), [self._memory(name) for name in names if name not in sources]

    def _memory(self, name: str) -> Memory:
        types = {self._trt.DataType.FLOAT: np.float32, self._trt.DataType.HALF: np.float16}
        kind = self._engine.get_tensor_dtype(name)
        if kind not in types:
            raise ArtifactError(f"`{name}` is {kind}, not float32 or float16")
        shape = tuple(int(size) for size in self._context.get_tensor_shape(name))
        if any(size < 1 for size in shape):
            raise ArtifactError(f"the shape of `{name}` is not known: {list(shape)}")
        return Memory(self._cuda, name, shape, np.dtype(types[kind]))

    def _bind(self, context: Any) -> None:
        context.set_input_shape(self._source.name, self._source.shape)
        for memory in (self._source, *self._results):
            if not context.set_tensor_address(memory.name, memory.device):
                raise CudaError(f"the engine refuses memory for `{memory.name}`")

    def _copy_in(self) -> None:
        self._cuda.to_device(self._source, self._stream)

    def _enqueue(self, context: Any = None) -> None:
        if not (context or self._context).execute_async_v3(self._stream):
            raise CudaError("the engine could not be started; its log says why")

    def _enqueue_whole(self) -> None:
        self._copy_in()
        self._enqueue()
        for memory in self._results:
            self._cuda.to_host(memory, self._stream)

    def _captured(self, work: Callable[[], None]) -> Callable[[], None]:
        """`work` as one CUDA graph; it runs once before, when TensorRT sets aside what it needs."""
        work()
        self._cuda.wait(self._stream)
        try:
            graph = self._cuda.captured(work, self._stream)
        except CudaError as error:
            raise FallbackError(f"the engine cannot be captured as a CUDA graph: {error}") from error
        return lambda: self._cuda.launch(graph, self._stream)


def _tensorrt() -> Any:
    """The module, of a version that this file was checked with; raises `Unavailable`."""
    try:
        trt = importlib.import_module("tensorrt")
    except Exception as error:  # a package of NVIDIA's that lacks its libraries raises what it likes
        raise Unavailable(f"TensorRT cannot be imported: {type(error).__name__}: {error}") from error
    version = str(getattr(trt, "__version__", "?"))
    if not version.startswith(tuple(f"{major}." for major in MAJORS)):
        raise Unavailable(f"TensorRT {version} is not one of {', '.join(f'{m}.x' for m in MAJORS)}")
    return trt


def logger_of(trt: Any) -> Any:
    """Keeps what TensorRT calls errors, and passes them and warnings on to standard error."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            kinds = trt.ILogger.Severity
            if severity in (kinds.INTERNAL_ERROR, kinds.ERROR):
                self.errors.append(msg)
            if severity in (kinds.INTERNAL_ERROR, kinds.ERROR, kinds.WARNING):
                print(f"TensorRT: {msg}", file=sys.stderr)

    return Log()


def _profiler_of(trt: Any) -> Any:
    """Collects `us`: name of a kernel -> microseconds of each run."""

    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.us: dict[str, list[float]] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.us.setdefault(layer_name, []).append(round(ms * 1000, 3))

    return Profiler()


# --- building -----------------------------------------------------------------------------------------------


def build_engine(
    trt: Any,
    onnx_path: Path,
    settings: Settings = Settings(),
    *,
    batches: Batches = (1, 1, 1),
    timing_cache: bytes | None = None,
    compute_capabilities: Sequence[str] = (),
    log: Any = None,
) -> Built:
    """The serialized engine of an ONNX file that `qdq_lint` accepts.

    One code path for TensorRT 10.x, 11.x and TensorRT-RTX (`trt`: the module `tensorrt` or `tensorrt_rtx`).
    Precision is in the ONNX file, for every version: Q/DQ for int8, half-precision tensors for fp16; the
    network is strongly typed. `batches`: where the file leaves the batch open. `timing_cache`: what an
    earlier build gave, b"" to begin one.
    `compute_capabilities` (such as "SM89"): TensorRT-RTX only; TensorRT builds for the GPU it runs on. Raises
    `ArtifactError` for the file, `FallbackError` for settings that this version or device does not have.
    """
    log = log or logger_of(trt)  # must outlive the builder
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)  # owns the weights until the engine is built
    _parse(trt, parser, network, Path(onnx_path))
    config = builder.create_builder_config()
    _configure(trt, config, settings)
    _set_targets(trt, config, compute_capabilities)
    _set_dla(trt, builder, config, settings.dla_core)
    _set_batches(builder, network, config, batches)
    cache = None if is_rtx(trt) else timing_cache  # TensorRT-RTX times nothing while it builds
    _read_timing_cache(config, cache)
    engine = builder.build_serialized_network(network, config)  # None on failure, no exception
    if engine is None:
        reasons = getattr(log, "errors", [])
        raise ArtifactError(f"{trt.__name__} built no engine: {reasons[0] if reasons else 'see its log'}")
    times = None if cache is None else bytes(config.get_timing_cache().serialize())
    return Built(bytes(engine), weighed_layers(trt, network), times)


def is_rtx(trt: Any) -> bool:
    return str(trt.__name__).startswith("tensorrt_rtx")


def _parse(trt: Any, parser: Any, network: Any, onnx_path: Path) -> None:
    if not onnx_path.is_file():
        raise ArtifactError(f"there is no file {onnx_path.name}")
    if not parser.parse_from_file(str(onnx_path)):
        errors = [parser.get_error(number) for number in range(parser.num_errors)]
        told = [f"{error.node_name()}: {error.desc()}" for error in errors]
        raise ArtifactError(f"{trt.__name__} refuses the graph: {'; '.join(told)}")
    if network.num_inputs == 0 or network.num_outputs == 0:
        raise ArtifactError("the file holds no network")


def _configure(trt: Any, config: Any, settings: Settings) -> None:
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mib << 20)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # layers and precisions for the inspector
    if not settings.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)  # it is on otherwise, also in a strongly typed network
    if settings.optimization_level is not None:
        config.builder_optimization_level = settings.optimization_level
    if settings.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if settings.hardware_compatibility:
        level = _member(trt.HardwareCompatibilityLevel, settings.hardware_compatibility)
        config.hardware_compatibility_level = level


def _member(choices: Any, name: str) -> Any:
    if name not in choices.__members__:
        raise FallbackError(f"`{name}` is none of {', '.join(choices.__members__)}")
    return choices.__members__[name]


def _set_targets(trt: Any, config: Any, capabilities: Sequence[str]) -> None:
    if not capabilities:
        return
    if not is_rtx(trt):
        raise FallbackError("TensorRT builds for the GPU it runs on only")
    config.num_compute_capabilities = len(capabilities)
    for number, name in enumerate(capabilities):
        if not config.set_compute_capability(_member(trt.ComputeCapability, name), number):
            raise FallbackError(f"{name} is not a target of {trt.__name__}")


def _set_dla(trt: Any, builder: Any, config: Any, core: int | None) -> None:
    if core is None:
        return
    if core >= builder.num_DLA_cores:
        raise FallbackError(f"DLA core {core} was asked for, there are {builder.num_DLA_cores} here")
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def _set_batches(builder: Any, network: Any, config: Any, batches: Batches) -> None:
    inputs = [network.get_input(number) for number in range(network.num_inputs)]
    shapes = {one.name: tuple(one.shape) for one in inputs}
    dynamic = {name: shape for name, shape in shapes.items() if any(size < 0 for size in shape)}
    if not dynamic:
        return
    profile = builder.create_optimization_profile()
    for name, shape in dynamic.items():
        if any(size < 0 for size in shape[1:]):
            raise ArtifactError(f"only the batch may be dynamic, the input `{name}` is {list(shape)}")
        profile.set_shape(name, *((batch, *shape[1:]) for batch in batches))
    config.add_optimization_profile(profile)


def _read_timing_cache(config: Any, content: bytes | None) -> None:
    if content is None:
        return
    cache = config.create_timing_cache(content)
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        raise FallbackError("the timing cache is of another GPU or version")


def weighed_layers(trt: Any, network: Any) -> dict[str, str]:
    """Name -> `int8` (weights are codes behind DequantizeLinear), `fp16` or `fp32`, of what has weights."""
    kinds = trt.LayerType
    layers = [network.get_layer(number) for number in range(network.num_layers)]
    made = {one.get_output(i).name: one for one in layers for i in range(one.num_outputs)}
    found = {}
    for layer in layers:
        if layer.type in (kinds.CONVOLUTION, kinds.DECONVOLUTION, kinds.MATRIX_MULTIPLY):
            weight = layer.get_input(1) if layer.num_inputs > 1 else None
            maker = made.get(weight.name) if weight is not None else None
            half = layer.get_input(0).dtype == trt.DataType.HALF
            is_int8 = maker is not None and maker.type == kinds.DEQUANTIZE
            found[str(layer.name)] = "int8" if is_int8 else "fp16" if half else "fp32"
    return found


def _opened(trt: Any, engine: bytes, settings: Settings, log: Any) -> Any:
    """An engine that was built here or is kept for exactly this machine, ready to run."""
    runtime = trt.Runtime(log)
    if settings.dla_core is not None:
        runtime.DLA_core = settings.dla_core
    if settings.version_compatible:
        runtime.engine_host_code_allowed = True  # its own code is in it
    opened = runtime.deserialize_cuda_engine(engine)  # None on failure, no exception
    if opened is None:
        raise ArtifactError(f"the engine cannot be opened: {log.errors[0] if log.errors else 'see its log'}")
    return opened


# --- engines that are kept ----------------------------------------------------------------------------------


def engine_of(
    trt: Any, device: dict[str, str], path: Path, batch: int, settings: Settings, log: Any
) -> tuple[bytes, dict[str, Any]]:
    """The engine, kept or built now and kept; `engine` (where it came from) and `layers`.

    Raises `FallbackError` where others may write to the folder: an engine is code, and is run.
    """
    folder = cache_folder(settings)
    machine = {"format": 1, "tensorrt": str(trt.__version__), "device": device}
    sizes = batches_of(settings, batch)
    about = {**machine, "model": _sha256(path), "settings": settings.of_engine(), "batches": list(sizes)}
    file = folder / f"{key_of(about)}.engine"
    try:
        engine, notes = kept(file, about)
        return engine, {"engine": "kept", "layers": notes["layers"]}
    except Stale as stale:
        reason = str(stale)
    times = folder / f"{key_of(machine)}.timing"
    cache = _kept_times(times, machine) if settings.timing_cache else None
    built = build_engine(trt, path, settings, batches=sizes, timing_cache=cache, log=log)
    keep(file, about, {"layers": built.layers}, built.engine)
    if built.timing_cache is not None:
        keep(times, machine, {}, built.timing_cache)
    return built.engine, {"engine": f"built: {reason}", "layers": built.layers}


def _kept_times(path: Path, machine: dict[str, Any]) -> bytes:
    try:
        return kept(path, machine)[0]
    except Stale:
        return b""


def cache_folder(settings: Settings) -> Path:
    """Made where it is missing; raises `FallbackError` unless it is the user's own and nobody else writes."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(home) if home.startswith("/") else Path("~/.cache").expanduser()
    folder = Path(settings.cache).expanduser() if settings.cache else root / "edgekd" / "tensorrt"
    with contextlib.suppress(OSError):  # a read-only disk: nothing is kept then
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.exists():
        found = folder.stat()
        if found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise FallbackError(f"others may write to {folder}: no engine is kept there; `chmod 700` it")
    return folder


def key_of(about: dict[str, Any]) -> str:
    text = json.dumps(about, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def keep(path: Path, about: dict[str, Any], notes: dict[str, Any], content: bytes) -> None:
    """Write manifest and content as one file that appears whole or not at all; a full disk keeps nothing."""
    manifest = {
        "about": about,
        "notes": notes,
        "size": len(content),
        "sha256": _digest(about, notes, content),
    }
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    with contextlib.suppress(OSError):
        try:
            with temporary.open("xb") as stream:
                os.fchmod(stream.fileno(), 0o600)
                stream.write(_MAGIC + json.dumps(manifest, sort_keys=True).encode() + b"\n" + content)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def kept(path: Path, about: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """Content and notes of what was kept for exactly this; raises `Stale`, also for one damaged byte."""
    if not path.is_file():
        raise Stale("none was kept")
    with path.open("rb") as stream:
        if os.fstat(stream.fileno()).st_uid != os.geteuid():
            raise Stale("the one that was kept is another user's")
        if stream.read(len(_MAGIC)) != _MAGIC:
            raise Stale("the one that was kept is no file of this version of edgekd")
        line = stream.readline(_LARGEST_MANIFEST)
        content = stream.read()
    try:
        manifest = json.loads(line)
        found, notes = manifest["about"], manifest["notes"]
        digest, size = manifest["sha256"], manifest["size"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Stale(f"the manifest of the one that was kept cannot be read: {error!r}") from error
    if found != about:
        raise Stale(f"the one that was kept is of another {', '.join(_differing(found, about))}")
    if len(content) != size or _digest(found, notes, content) != digest:
        raise Stale("the one that was kept is damaged")
    return content, notes


def _digest(about: Any, notes: Any, content: bytes) -> str:
    """sha256 of all three."""
    digest = hashlib.sha256(json.dumps([about, notes], sort_keys=True).encode())
    digest.update(content)
    return digest.hexdigest()


def _differing(found: Any, about: dict[str, Any]) -> list[str]:
    return [key for key in about if not isinstance(found, dict) or found.get(key) != about[key]]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for piece in iter(lambda: stream.read(1 << 16), b""):
            digest.update(piece)
    return digest.hexdigest()


# --- what an engine holds -----------------------------------------------------------------------------------


def summarize(information: dict[str, Any], expected: dict[str, str], settings: Settings) -> dict[str, Any]:
    """An engine's layers (the inspector's JSON of 10.x or 11.x), counted.

    `ops` by TensorRT's kind of layer, `placement` by GPU or DLA, `precisions` by what they compute in;
    `unexpected` names what has weights (`expected`: `weighed_layers`) and computes in another precision than
    the file's, or beside the DLA that was asked for; `untold` what no layer says that it computes, or not in
    which precision. `ends` are inputs and outputs.
    """
    nodes = nodes_of(information)
    keys = {"ops": "op", "placement": "provider", "precisions": "precision"}
    counts = {name: dict(Counter(node[key] for node in nodes)) for name, key in keys.items()}
    ends = information.get("I/O Tensors", information.get("Bindings", []))
    names = [end.get("Name", "?") if isinstance(end, dict) else str(end) for end in ends]
    computed_by = {layer: node for node in nodes for layer in node["layers"]}
    told = {layer: node for layer, node in computed_by.items() if node["precision"] != "?"}
    return {
        **counts,
        "unexpected": _unexpected(told, expected, settings),
        "untold": [layer for layer in expected if layer not in told],
        "ends": names,
        "nodes": nodes,
    }


def nodes_of(information: dict[str, Any]) -> list[dict[str, Any]]:
    """Name, op, provider, precision and `layers` (their names in the ONNX file) of what does work."""
    found = []
    for layer in information.get("Layers", []):
        about = layer if isinstance(layer, dict) else {"Name": str(layer)}  # without details: names only
        name, op = str(about.get("Name", "?")), str(about.get("LayerType", "?"))
        if op not in _NO_WORK:
            onnx = re.findall(r"\[ONNX Layer: ([^\]]*)\]", str(about.get("Metadata", "")))
            found.append(
                {
                    "name": name,
                    "op": op,
                    "provider": "DLA" if "DLA" in op.upper() else "GPU",
                    "precision": precision_of(about),
                    "layers": onnx + name.split(" + "),
                }
            )
    return found


def precision_of(layer: dict[str, Any]) -> str:
    """What a layer computes in: by its kernel's name, else by its weights, else by its first input."""
    kernel = str(layer.get("TacticName", "")).lower()
    if re.search(r"i8i8|imma|int8", kernel):
        return "int8"
    if "tf32" in kernel:
        return "tf32"
    weights, inputs = layer.get("Weights"), layer.get("Inputs") or [{}]
    first = inputs[0] if isinstance(inputs[0], dict) else {}
    words = [weights.get("Type", "")] if isinstance(weights, dict) else []
    words += [first.get(key, "") for key in ("Format/Datatype", "DataType", "Datatype", "Format")]
    for word in words:
        for precision, pattern in _PRECISIONS:
            if re.search(pattern, str(word).lower()):
                return precision
    return "?"


def _unexpected(told: dict[str, Any], expected: dict[str, str], settings: Settings) -> list[str]:
    on_gpu = {layer: told[layer] for layer in expected if layer in told and told[layer]["provider"] == "GPU"}
    found = []
    for layer, node in on_gpu.items():
        precision = expected[layer]
        fine = {precision, "tf32"} if settings.tf32 and precision == "fp32" else {precision}
        if node["precision"] not in fine:
            found.append(f"{layer} is {precision} in the file and runs in {node['precision']} ({node['op']})")
        if settings.dla_core is not None:
            found.append(f"{layer} runs on the GPU, DLA core {settings.dla_core} was asked for")
    return found


# --- CUDA ---------------------------------------------------------------------------------------------------


class Cuda:
    """The few calls of a CUDA runtime library that are needed."""

    def __init__(self, path: str) -> None:
        """Raises `OSError` when there is no such library."""
        self.path, self._library = path, ctypes.CDLL(path)

    def call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code != 0:
            text = self._library.cudaGetErrorString
            text.restype = ctypes.c_char_p
            raise CudaError(f"{name}: {text(code).decode('utf-8', 'replace')} (CUDA error {code})")

    def _number(self, name: str, *arguments: Any) -> int:
        value = ctypes.c_int(0)
        self.call(name, ctypes.byref(value), *arguments)
        return value.value

    def _pointer(self, name: str, *arguments: Any) -> int:
        value = ctypes.c_void_p()
        self.call(name, ctypes.byref(value), *arguments)
        return int(value.value or 0)

    def devices(self) -> int:
        return self._number("cudaGetDeviceCount")

    def version(self, of: str) -> str:
        """`of`: Runtime or Driver."""
        number = self._number(f"cuda{of}GetVersion")
        return f"{number // 1000}.{number % 1000 // 10}"

    def device(self) -> dict[str, str]:
        """What an engine is bound to: name, compute capability, UUID, driver, and the machine's own name."""
        properties = ctypes.create_string_buffer(1 << 14)  # name[256] and uuid[16] lead it in CUDA 11 to 13
        self.call("cudaGetDeviceProperties", properties, ctypes.c_int(0))
        major, minor = (self._number("cudaDeviceGetAttribute", ctypes.c_int(n), 0) for n in (75, 76))
        with contextlib.suppress(OSError):
            machine = Path("/proc/device-tree/model").read_bytes().rstrip(b"\0").decode("utf-8", "replace")
            return {**self._named(properties.raw, major, minor), "machine": machine}
        return self._named(properties.raw, major, minor)

    def _named(self, properties: bytes, major: int, minor: int) -> dict[str, str]:
        return {
            "name": properties[:256].split(b"\0")[0].decode("utf-8", "replace"),
            "uuid": properties[256:272].hex(),
            "compute_capability": f"{major}.{minor}",
            "driver": self.version("Driver"),
        }

    def stream(self) -> int:
        return self._pointer("cudaStreamCreateWithFlags", ctypes.c_uint(1))  # waits for no other stream

    def wait(self, stream: int) -> None:
        self.call("cudaStreamSynchronize", ctypes.c_void_p(stream))

    def event(self) -> int:
        return self._pointer("cudaEventCreateWithFlags", ctypes.c_uint(0))

    def record(self, event: int, stream: int) -> None:
        self.call("cudaEventRecord", ctypes.c_void_p(event), ctypes.c_void_p(stream))

    def elapsed_ms(self, before: int, after: int) -> float:
        value = ctypes.c_float()
        ends = (ctypes.c_void_p(before), ctypes.c_void_p(after))
        self.call("cudaEventElapsedTime", ctypes.byref(value), *ends)
        return float(value.value)

    def memory(self, size: int) -> tuple[int, int]:
        """Addresses of as many bytes on the device, and of pinned ones on the host."""
        on_device = self._pointer("cudaMalloc", ctypes.c_size_t(size))
        # 0: pinned, and known to every CUDA context of the process.
        return on_device, self._pointer("cudaHostAlloc", ctypes.c_size_t(size), ctypes.c_uint(0))

    def free(self, on_device: int, on_host: int) -> None:
        self.call("cudaFree", ctypes.c_void_p(on_device))
        self.call("cudaFreeHost", ctypes.c_void_p(on_host))

    def to_device(self, memory: Memory, stream: int) -> None:
        self._copy(memory.device, memory.address, memory.host.nbytes, 1, stream)

    def to_host(self, memory: Memory, stream: int) -> None:
        self._copy(memory.address, memory.device, memory.host.nbytes, 2, stream)

    def _copy(self, to: int, source: int, size: int, kind: int, stream: int) -> None:
        ends = (ctypes.c_void_p(to), ctypes.c_void_p(source), ctypes.c_size_t(size))
        self.call("cudaMemcpyAsync", *ends, ctypes.c_int(kind), ctypes.c_void_p(stream))

    def captured(self, work: Callable[[], None], stream: int) -> int:
        """What `work` enqueues on the stream, as a graph that can be launched."""
        self.call("cudaStreamBeginCapture", ctypes.c_void_p(stream), ctypes.c_int(1))  # of this thread only
        graph = ctypes.c_void_p()
        try:
            work()
        finally:
            self.call("cudaStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
        return self._pointer("cudaGraphInstantiateWithFlags", graph, ctypes.c_ulonglong(0))

    def launch(self, graph: int, stream: int) -> None:
        self.call("cudaGraphLaunch", ctypes.c_void_p(graph), ctypes.c_void_p(stream))


class Memory:
    """A tensor on the device (`device`: its address), and its pinned copy on the host (`host`)."""

    def __init__(self, cuda: Cuda, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.name, self.shape, self.dtype = name, shape, dtype
        size = int(np.prod(shape)) * dtype.itemsize
        self.device, self.address = cuda.memory(size)
        content = (ctypes.c_byte * size).from_address(self.address)
        self.host: npt.NDArray[Any] = np.ctypeslib.as_array(content).view(dtype).reshape(shape)
        weakref.finalize(self, cuda.free, self.device, self.address).atexit = False


def open_cuda() -> Cuda:
    """The first CUDA runtime library that sees a GPU; raises `Unavailable`."""
    reasons = []
    for path in libraries():
        try:
            cuda = Cuda(path)
            if cuda.devices() > 0:
                return cuda
            reasons.append(f"{path}: sees no GPU")
        except OSError:
            continue
        except CudaError as error:
            reasons.append(f"{path}: {error}")
    raise Unavailable(f"no GPU: {'; '.join(reasons) or 'there is no CUDA runtime library (libcudart)'}")


def libraries() -> list[str]:
    """Where a CUDA runtime is looked for: the loader's own places, JetPack's, those of pip's packages."""
    found = [f"libcudart.so.{version}" for version in ("13", "12", "11.0")]
    places = [(Path("/usr/local"), f"cuda*/{folder}") for folder in ("lib64", "targets/*/lib")]
    places += [(Path("/usr/lib"), "*-linux-gnu")]
    places += [(Path(one), "nvidia/*/lib") for one in sys.path if Path(one).is_absolute()]
    for root, pattern in places:
        found += sorted(map(str, root.glob(f"{pattern}/libcudart.so.*")), reverse=True)
    return found


# --- the file -----------------------------------------------------------------------------------------------


def check_file(path: Path) -> None:
    """Raises `ArtifactError` unless `path` is one whole ONNX file, which reads no other."""
    if not path.is_file():
        raise ArtifactError(f"there is no file {path.name}")
    if path.stat().st_size == 0:
        raise ArtifactError("the file is empty")
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if not _walk(content, 0, len(content), "model", 0):
            raise ArtifactError("not an ONNX file: it holds no graph")


def _walk(data: mmap.mmap, start: int, end: int, kind: str, depth: int) -> int:
    """Walk one protobuf message whole; the number of messages below it that matter."""
    if kind == "external":
        raise ArtifactError("its tensors are in another file: only one file is pushed")
    if depth > _MAX_DEPTH:
        raise ArtifactError(f"graphs are nested deeper than {_MAX_DEPTH}")
    known, count = _FIELDS[kind], 0
    for field, low, high in _fields(data, start, end):
        if field in known:
            _walk(data, low, high, known[field], depth + 1)
            count += 1
    return count


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
