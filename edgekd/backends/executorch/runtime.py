"""Runs a .pte program on the device: standard library, NumPy and ExecuTorch, Python 3.8 and newer.

This file is pushed beside the agent and imported by path, so it imports nothing of edgekd; what the agent
asks of it is said in `edgekd/backends/onnx/runtime.py`. The file is read here before ExecuTorch sees it
(`Program`): what it would run, and where, is known before anything of it is loaded, and most damage is found
where it cannot end the process.
"""

from __future__ import annotations

import sys
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

# `executorch.runtime` and `portable_lib` import the whole exporter (1,900 modules more, for one warning
# class); the extension module needs torch's libraries only.
from executorch.extension.pybindings import _C

if TYPE_CHECKING or __package__:
    from .executorch_flatbuffer import ArtifactError
    from .executorch_program import METHOD, Program, read
else:  # on the device, where the files lie side by side
    _FOLDER = str(Path(__file__).resolve().parent)
    if _FOLDER not in sys.path:  # last: what else lies there hides nothing
        sys.path.append(_FOLDER)
    from executorch_flatbuffer import ArtifactError
    from executorch_program import METHOD, Program, read

DEFAULT_BACKENDS = ("XnnpackBackend",)


class FallbackError(Exception):
    """The runtime would run the program somewhere else, or otherwise, than asked."""


def versions() -> dict[str, str]:
    from executorch.version import __version__ as executorch_version

    return {
        "executorch": executorch_version,
        "backends": ", ".join(sorted(_C._get_registered_backend_names())),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def load(path: str, threads: int = 1, batch: int = 1, options: dict[str, Any] | None = None) -> Graph:
    """Open the program at `path` for runs of `batch` images with `threads` threads.

    `options`: `backends` (delegates that may run, default XNNPACK). Raises `ArtifactError` for a truncated,
    hostile or unsuitable file, `FallbackError` when it would run on another backend, outside a delegate
    without having been exported so, or with another number of threads than asked.
    """
    return Graph(path, threads, batch, options or {})


# --- running ------------------------------------------------------------------------------------------------


class Graph:
    """A loaded program: one float input of `input_shape` (`[batch, C, H, W]`), its output the logits."""

    def __init__(self, path: str, threads: int, batch: int, options: dict[str, Any]) -> None:
        self.path, self.threads, self.batch, self.options = path, threads, batch, options
        self.program = read(Path(path))
        self.backends: list[str] = list(options.get("backends") or DEFAULT_BACKENDS)
        _check_placement(self.program, self.backends)
        self.input_shape = self.program.input_shape(batch)
        self.dtype = np.dtype("float32")
        _set_threads(threads)
        _ALIVE.add(self)
        self._method, self._opened = _open(path)

    def run(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """float32 `[batch, C, H, W]` to the logits `[batch, classes]`."""
        logits: npt.NDArray[Any] = self._method.call((torch.from_numpy(np.ascontiguousarray(x)),))[0].numpy()
        return logits

    def profile(self, x: npt.NDArray[Any] | None = None) -> dict[str, Any]:
        """What runs, as the program says it: ExecuTorch's Python package records no events.

        XNNPACK runs the nodes of its delegate as they are written, or does not open the file. `ops` counts
        them by kind, and operators outside by name; `placement` counts both by where they run, `precisions`
        by the type of a node's result (conversions left out, operators outside by themselves); `outside`
        names these, and `unexpected` too where the program was not exported so. `source` says that this is
        the program's word and not that of an observed run.
        """
        self.run(np.zeros(self.input_shape, self.dtype) if x is None else x)
        return self.program.summary()

    def layers(self, inputs: list[npt.NDArray[Any]], warm_up: int) -> list[dict[str, Any]]:
        """Nothing: the package from PyPI is built without event tracing, so no kernel's time is known."""
        return []


_ALIVE: weakref.WeakSet[Graph] = weakref.WeakSet()


def _set_threads(threads: int) -> None:
    """Size the one pool that all programs of a process share.

    Through private functions: ExecuTorch 1.5 has no public ones. Loaded programs hold on to the pool, so it
    is replaced only while there are none.
    """
    count = getattr(_C, "_threadpool_get_thread_count", None)
    reset = getattr(_C, "_unsafe_reset_threadpool", None)
    if count is None or reset is None:
        raise FallbackError("this ExecuTorch has no way to set the number of threads")
    if count() == threads:
        return
    if len(_ALIVE):
        raise FallbackError(
            f"programs with {count()} threads are loaded, and a process has one pool: {threads} need another"
        )
    reset(threads)
    if count() != threads:
        raise FallbackError(f"{threads} threads were asked for, ExecuTorch uses {count()}")


def _open(path: str) -> tuple[Any, Any]:
    """(method, program): the program must live as long as its method."""
    try:
        program = _C._load_program(
            path,
            enable_etdump=False,
            debug_buffer_size=0,
            program_verification=_C.Verification.InternalConsistency,
        )
        return program.load_method(METHOD), program
    except Exception as error:  # RuntimeError with an error code; what else, its documentation does not say
        raise ArtifactError(f"ExecuTorch refuses the program: {error}") from error


def _check_placement(program: Program, backends: list[str]) -> None:
    here = _C._get_registered_backend_names()
    for name in sorted({delegate for delegate, _ in program.delegates}):
        if name not in here:
            raise FallbackError(f"{name} is not in this build, which has {sorted(here)}")
        if name not in backends:
            raise FallbackError(f"{backends} was asked for, the program runs on {name}")
    missing = sorted(set(program.operators) - set(_C._get_operator_names()))
    if missing:
        raise FallbackError(f"this build has no kernel for {missing}")
    if program.operators and not program.allows_outside:
        raise FallbackError(f"runs outside {backends}: {program.outside()}")
