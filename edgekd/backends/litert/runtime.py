"""Runs a .tflite file on the device: standard library, NumPy and ai-edge-litert, Python 3.8 and newer.

This file is pushed beside the agent and imported by path, so it imports nothing of edgekd; what the agent
asks of it is said in `edgekd/backends/onnx/runtime.py`. LiteRT takes a file on trust and can end the process
where it should not have, so the file is read here first (`Model`).
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Set, Tuple  # noqa: UP035 - typing's own, for Python 3.8

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter, OpResolverType

if TYPE_CHECKING or __package__:
    from .litert_flatbuffer import ArtifactError
    from .litert_model import read
else:  # on the device, where the files lie side by side
    _FOLDER = str(Path(__file__).resolve().parent)
    if _FOLDER not in sys.path:  # last: what else lies there hides nothing
        sys.path.append(_FOLDER)
    from litert_flatbuffer import ArtifactError
    from litert_model import read

XNNPACK, BUILT_IN = "XNNPACK", "built-in kernels"

_DELEGATE = "DELEGATE"
_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")
_WEIGHED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL")
_PRECISIONS = {"float32": "fp32", "float16": "fp16"}


class FallbackError(Exception):
    """The runtime would run the model otherwise than asked."""


def versions() -> dict[str, str]:
    return {"ai-edge-litert": version("ai-edge-litert"), "numpy": np.__version__}


def load(path: str, threads: int = 1, batch: int = 1, options: dict[str, Any] | None = None) -> Graph:
    """Open the model at `path` for runs of `batch` images with `threads` threads.

    `options`: `xnnpack` (false: LiteRT's built-in kernels alone). Raises `ArtifactError` for a truncated,
    hostile or unsuitable file and for a batch that it does not take, `FallbackError` when XNNPACK was to run
    it and takes nothing of it.
    """
    return Graph(path, threads, batch, options or {})


# --- running ------------------------------------------------------------------------------------------------


class Graph:
    """A loaded model: takes float32 `[batch, C, H, W]` and gives logits `[batch, classes]`.

    The file's own layout (`layout`, NHWC for what edgekd exports) and integers are handled inside.
    """

    def __init__(self, path: str, threads: int, batch: int, options: dict[str, Any]) -> None:
        self.path, self.threads, self.batch = path, threads, batch
        self.model = read(Path(path))
        self.xnnpack = options.get("xnnpack", True) is not False
        self.layout = self.model.layout
        shape = (batch, *self.model.input_shape[1:])
        if batch != self.model.input_shape[0] and self.model.metadata.get("batch") != "any":
            # LiteRT would resize the input, and then answer wrongly where a shape within is fixed.
            raise ArtifactError(f"the batch is fixed to {self.model.input_shape[0]}, {batch} was asked for")
        self.input_shape = tuple(shape[i] for i in (0, 3, 1, 2)) if self.layout == "NHWC" else shape
        self.dtype = np.dtype("float32")
        self._interpreter = _opened(path, threads, self.xnnpack)
        self._input, self._output = _prepared(self._interpreter, shape)
        self._operations = _operations(self._interpreter)
        if self.xnnpack and not any(name == _DELEGATE for name, *_ in self._operations):
            raise FallbackError("XNNPACK was asked for and takes no operation of this model")
        self._rounded = np.empty(self.input_shape, np.float32)
        self._codes = np.empty(self.input_shape, self._input.kind)

    def run(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """float32 `[batch, C, H, W]` to the logits `[batch, classes]`."""
        self._write(x if self._input.scale is None else self._quantized(x))
        try:
            self._interpreter.invoke()
        except RuntimeError as error:
            raise ArtifactError(f"LiteRT cannot run the model: {error}") from error
        logits = self._interpreter.get_tensor(self._output.index)
        if self._output.scale is None:
            return np.asarray(logits)
        return np.asarray((logits.astype(np.float32) - self._output.zero_point) * self._output.scale)

    def _write(self, values: npt.NDArray[Any]) -> None:
        """Into LiteRT's own memory, of which no view may be left when it runs."""
        memory = self._interpreter.tensor(self._input.index)()
        if self.layout == "NCHW":
            np.copyto(memory, values)
            return
        for channel in range(values.shape[1]):  # six times faster than all channels in one call
            np.copyto(memory[..., channel], values[:, channel])

    def _quantized(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Codes: divided, rounded half to even and clamped, as in training."""
        rounded, end = self._rounded, self._input
        np.divide(x, end.scale, out=rounded)
        np.rint(rounded, out=rounded)
        rounded += end.zero_point
        rounded.clip(end.low, end.high, out=rounded)
        np.copyto(self._codes, rounded, casting="unsafe")
        return self._codes

    def profile(self, x: npt.NDArray[Any] | None = None) -> dict[str, Any]:
        """What runs: LiteRT's Python package records no events, but tells what delegates took.

        `ops` counts operations by kind, `placement` by where they run (XNNPACK, or LiteRT's built-in
        kernels on the same processor), `precisions` by the type of their result (conversions left out);
        `unexpected` names layers with weights that run outside XNNPACK, or in float with int8 weights.
        """
        self.run(np.zeros(self.input_shape, self.dtype) if x is None else x)
        outside = _outside(self._operations, self._output.index)
        found: dict[str, Any] = {"ops": {}, "placement": {}, "precisions": {}, "unexpected": []}
        for number, (name, operands, results, _, _) in enumerate(self._operations):
            if name == _DELEGATE:
                continue
            place = BUILT_IN if number in outside else XNNPACK
            _count(found["ops"], name)
            _count(found["placement"], place)
            if name not in _CONVERSIONS:
                _count(found["precisions"], _PRECISIONS.get(results[0], results[0]))
            if name in _WEIGHED:
                found["unexpected"] += self._unexpected(f"{name} {number}", place, operands, results)
        return {**found, "delegate_calls": sum(name == _DELEGATE for name, *_ in self._operations)}

    def _unexpected(self, name: str, place: str, operands: list[str], results: list[str]) -> list[str]:
        found = [f"{name} runs in {place}"] if self.xnnpack and place != XNNPACK else []
        if "int8" in operands and results[0] == "float32":
            found.append(f"{name} has int8 weights and runs in float32")
        return found

    def ends(self) -> list[dict[str, Any]]:
        """Of input and output: `dtype`, and `step` and `zero_point` where it is of integers."""
        return [end.facts() for end in (self._input, self._output)]

    def layers(self, inputs: list[npt.NDArray[Any]], warm_up: int) -> list[dict[str, Any]]:
        """Nothing: the Python package has no profiler, so no kernel's time is known."""
        return []


class _End:
    """An input or output: LiteRT's number of the tensor, and its integers, if it has any."""

    def __init__(self, details: dict[str, Any]) -> None:
        self.index = int(details["index"])
        self.scale: Any = None
        self.zero_point = 0
        self.kind = kind = np.dtype(details["dtype"])
        if kind.kind in "iu":
            self.scale = np.float32(details["quantization"][0])
            self.zero_point = int(details["quantization"][1])
            self.low, self.high = int(np.iinfo(kind).min), int(np.iinfo(kind).max)
            if not self.scale > 0:
                raise ArtifactError(f"an end of type {kind} has the step {self.scale}")

    def facts(self) -> dict[str, Any]:
        steps = {} if self.scale is None else {"step": float(self.scale), "zero_point": self.zero_point}
        return {"dtype": self.kind.name, **steps}


def _opened(path: str, threads: int, xnnpack: bool) -> Any:
    kinds = OpResolverType
    try:
        return Interpreter(
            path,
            num_threads=threads,
            experimental_op_resolver_type=kinds.AUTO if xnnpack else kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
    except (ValueError, RuntimeError) as error:
        raise ArtifactError(f"LiteRT refuses the model: {error}") from error


def _prepared(interpreter: Any, shape: tuple[int, ...]) -> tuple[_End, _End]:
    """Its ends, with memory for inputs of `shape`; raises `ArtifactError`."""
    (given,) = interpreter.get_input_details()
    try:
        if tuple(given["shape"]) != shape:
            interpreter.resize_tensor_input(given["index"], shape, strict=False)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ArtifactError(f"LiteRT cannot prepare the model for {list(shape)}: {error}") from error
    (answer,) = interpreter.get_output_details()
    sizes = list(answer["shape"])
    if len(sizes) != 2 or sizes[0] != shape[0]:
        raise ArtifactError(f"the logits must be [{shape[0]}, classes], are {[int(n) for n in sizes]}")
    return _End(given), _End(answer)


_Operation = Tuple[str, List[str], List[str], List[int], List[int]]  # noqa: UP006
"""Name, types of operands and results, numbers of both."""


def _operations(interpreter: Any) -> list[_Operation]:
    """All of the file, then the delegates that stand for parts of them.

    Through a private function: LiteRT has no public one. In a version without it nothing can be said.
    """
    details = getattr(interpreter, "_get_ops_details", None)
    if details is None:
        raise FallbackError("this LiteRT does not tell what a delegate took: install ai-edge-litert 2.3")
    return [
        (
            str(one["op_name"]),
            [np.dtype(kind).name for kind in one["operand_types"]],
            [np.dtype(kind).name for kind in one["result_types"]],
            [int(number) for number in one["inputs"]],
            [int(number) for number in one["outputs"]],
        )
        for one in details()
    ]


def _outside(operations: list[_Operation], output: int) -> set[int]:
    """Numbers of the operations that no delegate took: what is met from the output backwards.

    A delegate gives the tensors of its last operations, and so hides these and what only they read.
    """
    makers = {made: number for number, one in enumerate(operations) for made in one[4]}
    found: Set[int] = set()  # noqa: UP006
    waiting, seen = [output], {output}
    while waiting:
        number = makers.get(waiting.pop())
        if number is not None and number not in found:
            found.add(number)
            waiting += [one for one in operations[number][3] if one not in seen]
            seen.update(operations[number][3])
    return {number for number in found if operations[number][0] != _DELEGATE}


def _count(counts: dict[str, int], name: str) -> None:
    counts[name] = counts.get(name, 0) + 1
