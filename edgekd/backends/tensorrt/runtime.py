"""Runs a TensorRT engine on the device: standard library, NumPy, TensorRT; Python 3.8 and newer.

This file is pushed beside the agent and imported by path, its parts (tensorrt_*.py) beside it, so they import
nothing of edgekd; what the agent asks of it is said in `edgekd/backends/onnx/runtime.py`. The engine of an
ONNX file is built by the TensorRT of the machine for its GPU, and kept. TensorRT is imported when it is first
needed.

No line that needs a GPU was executed: no GPU. Names and signatures were held against the real bindings of
TensorRT 10.3, 10.16 and 11.4 (`api_check`).
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable  # noqa: UP035 - typing's own, for Python 3.8

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING or __package__:
    from .tensorrt_build import logger_of, opened_engine
    from .tensorrt_cuda import Cuda, CudaError, Memory, Unavailable, open_cuda
    from .tensorrt_file import ArtifactError, check_file
    from .tensorrt_keep import engine_of
    from .tensorrt_layers import nodes_of, summarize
    from .tensorrt_settings import FallbackError, Settings, settings_of
else:  # on the device, where the files lie side by side
    _FOLDER = str(Path(__file__).resolve().parent)
    if _FOLDER not in sys.path:  # last: what else lies there hides nothing
        sys.path.append(_FOLDER)
    from tensorrt_build import logger_of, opened_engine
    from tensorrt_cuda import Cuda, CudaError, Memory, Unavailable, open_cuda
    from tensorrt_file import ArtifactError, check_file
    from tensorrt_keep import engine_of
    from tensorrt_layers import nodes_of, summarize
    from tensorrt_settings import FallbackError, Settings, settings_of

MAJORS = (10, 11)


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


class Graph:
    """An engine: one float input of `input_shape` (`[batch, C, H, W]`), its first output the logits."""

    def __init__(self, trt: Any, cuda: Cuda, path: Path, batch: int, settings: Settings) -> None:
        self._trt, self._cuda, self._settings = trt, cuda, settings
        self._log = logger_of(trt)
        engine, self.about = engine_of(trt, cuda.device(), path, batch, settings, self._log)
        self._engine = opened_engine(trt, engine, settings, self._log)
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


def _profiler_of(trt: Any) -> Any:
    """Collects `us`: name of a kernel -> microseconds of each run."""

    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.us: dict[str, list[float]] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.us.setdefault(layer_name, []).append(round(ms * 1000, 3))

    return Profiler()
