"""Builds an engine of an ONNX file and opens it; pushed beside runtime.py, standard library and TensorRT.

TensorRT is given as a module, so that `build_engine` serves TensorRT-RTX, too: that builds without a GPU, and
is what was executed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Sequence  # noqa: UP035 - typing's own, for Python 3.8

if TYPE_CHECKING or __package__:
    from .tensorrt_file import ArtifactError
    from .tensorrt_settings import Batches, FallbackError, Settings
else:  # on the device, where the files lie side by side
    from tensorrt_file import ArtifactError
    from tensorrt_settings import Batches, FallbackError, Settings


class Built(NamedTuple):
    """An engine, and what was learned when it was built."""

    engine: bytes
    layers: dict[str, str]
    """Name in the ONNX file -> precision, of every convolution and matrix product."""
    timing_cache: bytes | None


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


def opened_engine(trt: Any, engine: bytes, settings: Settings, log: Any) -> Any:
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
