"""Runs an ncnn network on the device: standard library, NumPy and ncnn, Python 3.8 and newer.

This file is pushed beside the agent and imported by path, so it imports nothing of edgekd; what the agent
asks of it is said in `edgekd/backends/onnx/runtime.py`.

ncnn's loader of 2026-10-20 refuses most texts that are not sound (that of July wrote outside of its memory
for too small a number of blobs), but takes a convolution whose weights do not fit what comes in, and reads
outside of them. So the text is read here first (`read`): every layer is of a kind whose sizes are known
(`ncnn_sizes`), sizes are followed from the input to the logits, and the .bin has just the bytes that the
layers read. ncnn gets the text that was read, not the file once more.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ncnn
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING or __package__:
    from .ncnn_program import INPUT, OUTPUT, Program, read
    from .ncnn_text import ArtifactError
else:  # on the device, where the files lie side by side
    _FOLDER = str(Path(__file__).resolve().parent)
    if _FOLDER not in sys.path:  # last: what else lies there hides nothing
        sys.path.append(_FOLDER)
    from ncnn_program import INPUT, OUTPUT, Program, read
    from ncnn_text import ArtifactError

_SHORTER = (
    *("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_packed", "use_bf16_storage"),
    *("use_int8_packed", "use_int8_storage", "use_int8_arithmetic", "use_int8_inference"),
)
"""Options of ncnn that let it compute in less than float32."""


class FallbackError(Exception):
    """The runtime would run the network otherwise than asked."""


def versions() -> dict[str, str]:
    return {"ncnn": ncnn.__version__, "numpy": np.__version__}


def load(path: str, threads: int = 1, batch: int = 1, options: dict[str, Any] | None = None) -> Graph:
    """Open the network at `path` (.param, its .bin beside it), in float32 with `threads` threads.

    ncnn has no batch axis here, so `batch` must be 1. Raises `ArtifactError` for truncated, hostile or
    unsuitable files and for a .bin of another export, `FallbackError` for more threads than OpenMP
    may start. There are no `options`.
    """
    return Graph(path, threads, batch)


class Graph:
    """A loaded network: one float32 input of `input_shape` (`[1, C, H, W]`), its output the logits."""

    def __init__(self, path: str, threads: int, batch: int) -> None:
        self.path, self.threads = path, threads
        self.program = read(Path(path))
        if batch != 1:
            raise ArtifactError(f"the batch is fixed to 1, {batch} was asked for")
        self.input_shape = (1, *self.program.input_shape)
        self.dtype = np.dtype("float32")
        _check_threads(threads)
        self._net = _opened(self.program, threads)

    def run(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """float32 `[1, C, H, W]` to the logits `[1, classes]`."""
        image = np.ascontiguousarray(x[0], np.float32)
        extractor = self._net.create_extractor()
        # Cloned: ncnn wants each channel aligned, and a view of the array would not be.
        refused = extractor.input(INPUT, ncnn.Mat(image).clone())
        status, logits = extractor.extract(OUTPUT)
        if refused or status:
            raise ArtifactError(f"ncnn cannot run the network (code {refused or status})")
        return np.array(logits, np.float32)[None]

    def profile(self, x: npt.NDArray[Any] | None = None) -> dict[str, Any]:
        """What runs, as the network says it: the package from PyPI is built without ncnn's own timing.

        ncnn runs the layers as they are written, all on the CPU, in the types that are allowed; only float32
        is. `ops` counts them by kind, the input left out. `source` says that this is the network's word.
        """
        self.run(np.zeros(self.input_shape, self.dtype) if x is None else x)
        kinds = [layer.kind for layer in self.program.layers[1:]]
        counts = {"placement": {"CPU": len(kinds)}, "precisions": {"fp32": len(kinds)}}
        return {"ops": dict(Counter(kinds)), **counts, "unexpected": [], "source": "program"}

    def layers(self, inputs: list[npt.NDArray[Any]], warm_up: int) -> list[dict[str, Any]]:
        """Nothing: the package from PyPI is built without `NCNN_BENCHMARK`, so no layer's time is known."""
        return []


def _check_threads(threads: int) -> None:
    """What ncnn is told of threads, OpenMP may overrule without a word: by this variable, or by `dynamic`."""
    limit = os.environ.get("OMP_THREAD_LIMIT", "")
    if limit.isdigit() and int(limit) < threads:
        raise FallbackError(f"{threads} threads were asked for, OMP_THREAD_LIMIT allows {limit}")
    ncnn.set_omp_dynamic(0)


def _opened(program: Program, threads: int) -> Any:
    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_vulkan_compute = False
    for name in _SHORTER:
        setattr(net.opt, name, False)
    if net.load_param_mem(program.text) != 0:
        raise ArtifactError("ncnn refuses the network: load_param failed, its reason is on standard error")
    weights = str(program.weights) if program.blocks else ncnn.DataReaderFromEmpty()
    if net.load_model(weights) != 0:
        raise ArtifactError("ncnn refuses the weights: load_model failed, its reason is on standard error")
    return net
