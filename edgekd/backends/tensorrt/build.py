"""Builds an engine through one code path for TensorRT 10.x, 11.x and TensorRT-RTX.

The module of the bindings is handed in, so that the lines that a device runs are those executed here: with
`tensorrt_rtx`, which builds without a GPU. For `tensorrt` 10.x and 11.x names and signatures were checked
(`api_check`); building with it was not executed: no GPU. Standard library only, Python 3.8 and newer.

Precision is in the ONNX file, for every version: Q/DQ for int8, half-precision tensors for fp16. The
network is strongly typed, so an engine means the same on 10.3 and on 11.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Tuple  # noqa: UP035 - Python 3.8 on the device

Shapes = Dict[str, Tuple[Sequence[int], Sequence[int], Sequence[int]]]  # noqa: UP006
"""Dynamic input -> its smallest, usual and largest shape."""


class BuildError(RuntimeError):
    """The file, the settings or the version do not give an engine; the message says which."""


def build_engine(
    trt: Any,
    onnx_path: Path,
    *,
    shapes: Optional[Shapes] = None,  # noqa: UP045
    workspace_mib: int = 1024,
    timing_cache: Optional[Path] = None,  # noqa: UP045
    compute_capabilities: Sequence[str] = (),
    hardware_compatibility: Optional[str] = None,  # noqa: UP045
    version_compatible: bool = False,
    dla_core: Optional[int] = None,  # noqa: UP045
    optimization_level: Optional[int] = None,  # noqa: UP045
    logger: Any = None,
) -> bytes:
    """The serialized engine of an ONNX file that `qdq_lint` accepts.

    `trt`: the module `tensorrt` or `tensorrt_rtx`. `compute_capabilities` (such as "SM89"): TensorRT-RTX
    only; TensorRT builds for the GPU it runs on. `timing_cache`: read where it exists, and written. Raises
    `BuildError`.
    """
    logger = logger or trt.Logger(trt.Logger.WARNING)  # must outlive the builder
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(trt, network, logger, onnx_path)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib << 20)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # names of layers for the inspector
    if optimization_level is not None:
        config.builder_optimization_level = optimization_level
    if version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if hardware_compatibility:
        config.hardware_compatibility_level = _member(trt.HardwareCompatibilityLevel, hardware_compatibility)
    _set_targets(trt, config, compute_capabilities)
    _set_dla(trt, config, dla_core)
    _set_shapes(builder, network, config, shapes or {})
    cache = None if is_rtx(trt) else timing_cache  # TensorRT-RTX times nothing while it builds
    _read_cache(config, cache)
    engine = builder.build_serialized_network(network, config)  # None on failure, no exception
    if engine is None:
        raise BuildError(f"{trt.__name__} built no engine; its log says why")
    if cache is not None:
        cache.write_bytes(bytes(config.get_timing_cache().serialize()))
    return bytes(engine)


def is_rtx(trt: Any) -> bool:
    return str(trt.__name__).startswith("tensorrt_rtx")


def _parse(trt: Any, network: Any, logger: Any, onnx_path: Path) -> None:
    """From the file and not from its bytes, so that external data are found beside it."""
    if not Path(onnx_path).is_file():
        raise BuildError(f"there is no file {Path(onnx_path).name}")
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx_path)):
        errors = [parser.get_error(number) for number in range(parser.num_errors)]
        told = [f"{error.node_name()}: {error.desc()}" for error in errors]
        raise BuildError(f"{trt.__name__} refuses the graph: {'; '.join(told)}")
    if network.num_inputs == 0 or network.num_outputs == 0:
        raise BuildError("the file holds no network")


def _member(choices: Any, name: str) -> Any:
    if name not in choices.__members__:
        raise BuildError(f"`{name}` is none of {', '.join(choices.__members__)}")
    return choices.__members__[name]


def _set_targets(trt: Any, config: Any, capabilities: Sequence[str]) -> None:
    if not capabilities:
        return
    if not is_rtx(trt):
        raise BuildError("TensorRT builds for the GPU it runs on only")
    config.num_compute_capabilities = len(capabilities)
    for number, name in enumerate(capabilities):
        if not config.set_compute_capability(_member(trt.ComputeCapability, name), number):
            raise BuildError(f"{name} is not a target of {trt.__name__}")


def _set_dla(trt: Any, config: Any, core: Optional[int]) -> None:  # noqa: UP045
    if core is None:
        return
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def _set_shapes(builder: Any, network: Any, config: Any, shapes: Shapes) -> None:
    inputs = [network.get_input(number) for number in range(network.num_inputs)]
    dynamic = [one for one in inputs if any(size < 0 for size in one.shape)]
    unknown = sorted(set(shapes) - {one.name for one in dynamic})
    if unknown:
        raise BuildError(f"{', '.join(unknown)}: no dynamic input of that name")
    if not dynamic:
        return
    profile = builder.create_optimization_profile()
    for one in dynamic:
        if one.name not in shapes:
            raise BuildError(f"the input `{one.name}` is dynamic: give its smallest, usual, largest shape")
        smallest, usual, largest = (tuple(shape) for shape in shapes[one.name])
        profile.set_shape(one.name, smallest, usual, largest)
    config.add_optimization_profile(profile)


def _read_cache(config: Any, path: Optional[Path]) -> None:  # noqa: UP045
    if path is None:
        return
    cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        raise BuildError(f"{path.name} is the timing cache of another GPU or version; delete it")
