"""Runs a .tflite file on the device: standard library, NumPy and ai-edge-litert, Python 3.8 and newer.

This file is pushed beside the agent and imported by path, so it imports nothing of edgekd; what the agent
asks of it is said in `edgekd/backends/onnx/runtime.py`. LiteRT takes a file on trust and can end the process
where it should not have, so the file is read here first (`Model`).
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import struct
from importlib.metadata import version
from pathlib import Path
from typing import Any, List, Set, Tuple  # noqa: UP035 - typing's own, for Python 3.8

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter, OpResolverType

XNNPACK, BUILT_IN = "XNNPACK", "built-in kernels"
METADATA = "edgekd"
"""Name of the metadata entry with our JSON: labels, layout, preprocessing."""

_DELEGATE = "DELEGATE"
_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")
_CASTS = (*_CONVERSIONS, "CAST")
_VALUE = {"SPLIT": 1, "TRANSPOSE_CONV": 2}
"""Which operand has the values, where it is not the first."""
_TOLD_BY = {
    "PAD": 1,
    "PADV2": 1,
    "MIRROR_PAD": 1,
    "RESIZE_BILINEAR": 1,
    "RESIZE_NEAREST_NEIGHBOR": 1,
    "BROADCAST_TO": 1,
    "TRANSPOSE_CONV": 0,
}
"""Which operand says the shape of the result."""
_WEIGHED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL")
_PRECISIONS = {"float32": "fp32", "float16": "fp16"}
_COLORS = (1, 3, 4)
"""Channels by which the layout of a file is known that does not say it."""

# Positions and numbers in the schema (tflite/schema.fbs of LiteRT 2.3.0).
_TYPES = {0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 6: "bool", 7: "int16", 9: "int8"}
_TYPE_BYTES = {0: 4, 1: 2, 2: 4, 3: 1, 4: 8, 6: 1, 7: 2, 9: 1}
_ENDS = ("float32", "int8", "uint8")
_OPERATORS = (
    "0 ADD,1 AVERAGE_POOL_2D,2 CONCATENATION,3 CONV_2D,4 DEPTHWISE_CONV_2D,6 DEQUANTIZE,8 FLOOR,"
    "9 FULLY_CONNECTED,11 L2_NORMALIZATION,14 LOGISTIC,17 MAX_POOL_2D,18 MUL,19 RELU,20 RELU_N1_TO_1,"
    "21 RELU6,22 RESHAPE,23 RESIZE_BILINEAR,25 SOFTMAX,26 SPACE_TO_DEPTH,28 TANH,34 PAD,36 GATHER,"
    "39 TRANSPOSE,40 MEAN,41 SUB,42 DIV,43 SQUEEZE,45 STRIDED_SLICE,47 EXP,49 SPLIT,50 LOG_SOFTMAX,53 CAST,"
    "54 PRELU,55 MAXIMUM,57 MINIMUM,59 NEG,60 PADV2,65 SLICE,67 TRANSPOSE_CONV,70 EXPAND_DIMS,"
    "73 LOG,74 SUM,75 SQRT,76 RSQRT,78 POW,81 REDUCE_PROD,82 REDUCE_MAX,83 PACK,88 UNPACK,89 REDUCE_MIN,"
    "92 SQUARE,97 RESIZE_NEAREST_NEIGHBOR,98 LEAKY_RELU,99 SQUARED_DIFFERENCE,100 MIRROR_PAD,101 ABS,"
    "102 SPLIT_V,104 CEIL,111 ELU,114 QUANTIZE,116 ROUND,117 HARD_SWISH,126 BATCH_MATMUL,"
    "130 BROADCAST_TO,150 GELU,161 RELU_0_TO_1"
)
"""What a classifier is made of: neither control flow nor anything that refers to another graph."""
OPERATORS = {int(one.split()[0]): one.split()[1] for one in _OPERATORS.split(",")}
_LARGEST_COUNT = 1 << 20
_FARTHEST = float(1 << 18)
"""Ratio of steps: LiteRT ends the process where a multiplier does not fit its fixed-point form."""
_LARGEST_TENSOR = 1 << 31
"""Bytes: no classifier of an image has larger ones."""


class ArtifactError(Exception):
    """The file is not a model that may be run here."""


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
        self._codes = np.empty(self.input_shape, np.float32)

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
            np.copyto(memory, values, casting="unsafe")
            return
        for channel in range(values.shape[1]):  # six times faster than all channels in one call
            np.copyto(memory[..., channel], values[:, channel], casting="unsafe")

    def _quantized(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Codes as float32: divided, rounded half to even and clamped, as in training."""
        codes, end = self._codes, self._input
        np.divide(x, end.scale, out=codes)
        np.rint(codes, out=codes)
        codes += end.zero_point
        return np.clip(codes, end.low, end.high, out=codes)

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


# --- reading the file ---------------------------------------------------------------------------------------


def read(path: Path) -> Model:
    """What the file at `path` consists of; raises `ArtifactError` where it is no whole classifier."""
    if not path.is_file():
        raise ArtifactError(f"there is no file {path.name}")
    if path.stat().st_size == 0:
        raise ArtifactError("the file is empty")
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        # Mapped, so that weights, which are skipped, do not count in the peak memory.
        return Model(content)


class _Tensor:
    """A tensor of the file; raises `ArtifactError` where its shape, type and constant do not fit."""

    def __init__(self, table: _Table, buffers: list[_Table]) -> None:
        self.shape, self.kind = table.numbers(0, "i"), table.number(1, "b")
        buffer = table.number(2, "I")
        if self.kind not in _TYPES or buffer >= len(buffers):
            raise ArtifactError(f"a tensor has the unknown type {self.kind} or a buffer outside of the file")
        if len(self.shape) > 8 or min(self.shape, default=1) < 1:
            raise ArtifactError(f"a tensor has the shape {self.shape}")
        size = math.prod(self.shape) * _TYPE_BYTES[self.kind]
        if size > _LARGEST_TENSOR:
            raise ArtifactError(f"a tensor would need {size} bytes")
        self._buffer = buffers[buffer]
        size_there = self._buffer.place(0)[1]
        self.constant = buffer > 0 and size_there > 0
        if self.constant and size_there != size:
            raise ArtifactError(f"a constant has {size_there} bytes, its shape {self.shape} needs {size}")
        if table.number(5, "b") or table.has(6) or table.has(9):
            raise ArtifactError("variables, sparse and nested tensors are not for classifiers")
        self.name = table.text(3)
        self.steps = _steps(table, self.shape)
        if not self.steps and _TYPES[self.kind] in ("int8", "uint8", "int16"):
            raise ArtifactError(f"a tensor of {_TYPES[self.kind]} has no step")

    def integers(self) -> list[int]:
        """The values of a constant that says a shape; empty for anything else."""
        form = {"int32": "i", "int64": "q"}.get(_TYPES[self.kind])
        if form is None or not self.constant or len(self.shape) > 2:
            return []
        start, _ = self._buffer.place(0)
        return list(struct.unpack_from(f"<{math.prod(self.shape)}{form}", self._buffer.file.data, start))


def _steps(table: _Table, shape: list[int]) -> list[float]:
    """The steps of a tensor; raises `ArtifactError` where they do not fit it."""
    if not table.has(4):
        return []
    steps = table.table(4)
    scales, zero_points, along = steps.numbers(2, "f"), steps.numbers(3, "q"), steps.number(6, "i")
    if steps.number(4, "B") or len(scales) not in (0, 1, *shape) or len(zero_points) not in (1, len(scales)):
        raise ArtifactError("a tensor's quantization does not fit its shape")
    if len(scales) > 1 and not (0 <= along < len(shape) and shape[along] == len(scales)):
        raise ArtifactError("a tensor has another number of steps than channels")
    if not all(0 < scale < math.inf for scale in scales):
        raise ArtifactError("a tensor's step is not a positive number")
    return scales


class Model:
    """The one graph of a .tflite file: its ends, operations, metadata."""

    def __init__(self, data: Any) -> None:
        if len(data) < 16 or data[4:8] != b"TFL3":
            raise ArtifactError("not a .tflite file: the mark `TFL3` at byte 4 is missing")
        root = _Bytes(data).root()
        self._buffers = root.tables(4)
        if any(one.number(1, "Q") > 1 for one in self._buffers):
            raise ArtifactError("weights outside of the flatbuffer are not read here")
        graphs = root.tables(2)
        if root.number(0, "I") != 3 or len(graphs) != 1:
            raise ArtifactError(f"version {root.number(0, 'I')} with {len(graphs)} graphs, not 3 with one")
        self.tensors = [_Tensor(one, self._buffers) for one in graphs[0].tables(0)]
        self.input_shape = tuple(self._end(graphs[0].numbers(1, "i"), "input", 4).shape)
        self._end(graphs[0].numbers(2, "i"), "output", 2)
        codes = [_operator(one) for one in root.tables(1)]
        self.operators: dict[str, int] = {}
        self._follow(graphs[0], codes)
        self.metadata = self._metadata(root)
        self.layout = self._layout()

    def _end(self, numbers: list[int], end: str, rank: int) -> _Tensor:
        if len(numbers) != 1 or not 0 <= numbers[0] < len(self.tensors):
            raise ArtifactError(f"needs exactly one {end}, has {len(numbers)}")
        tensor = self.tensors[numbers[0]]
        if len(tensor.shape) != rank or _TYPES[tensor.kind] not in _ENDS or tensor.constant:
            raise ArtifactError(f"the {end} is {_TYPES[tensor.kind]} {tensor.shape}, not of rank {rank}")
        return tensor

    def _follow(self, graph: _Table, codes: list[str]) -> None:
        """Every operation reads what is there, and makes what was not."""
        known = {number for number, tensor in enumerate(self.tensors) if tensor.constant}
        known.update(graph.numbers(1, "i"))
        for operation in graph.tables(3):
            code = operation.number(0, "I")
            needed = [number for number in operation.numbers(1, "i") if number != -1]
            made = operation.numbers(2, "i")
            if code >= len(codes) or not needed or not made or operation.numbers(8, "i"):
                raise ArtifactError("an operation has no name, no input or no output")
            if not known.issuperset(needed):
                raise ArtifactError(f"{codes[code]} reads a tensor that is not there")
            if known.intersection(made) or not all(0 <= number < len(self.tensors) for number in made):
                raise ArtifactError(f"{codes[code]} writes a tensor that it must not")
            self._check_types(codes[code], operation.numbers(1, "i"), made[0])
            known.update(made)
            _count(self.operators, codes[code])
        if not known.issuperset(graph.numbers(2, "i")):
            raise ArtifactError("no operation makes the output")

    def _check_types(self, name: str, operands: list[int], made: int) -> None:
        """Kernels take it on trust that their result is of the type, and near the step, of what they read."""
        place = _VALUE.get(name, 0)
        read = operands[place] if place < len(operands) else -1
        if read == -1 or (name not in _CASTS and self.tensors[read].kind != self.tensors[made].kind):
            raise ArtifactError(f"{name} makes another type than it reads")
        for step in self.tensors[read].steps[:1]:
            if any(not 1 / _FARTHEST < step / other < _FARTHEST for other in self.tensors[made].steps[:1]):
                raise ArtifactError(f"{name} has steps that are too far apart")
        wanted = self._shape_said(name, operands)
        if wanted is not None and wanted != self.tensors[made].shape:
            raise ArtifactError(f"{name} would make {wanted}, the file says {self.tensors[made].shape}")

    def _shape_said(self, name: str, operands: list[int]) -> list[int] | None:
        """The shape that an operation is told to make by a constant: else it may ask for any memory."""
        if name not in _TOLD_BY:
            return None
        place = _TOLD_BY[name]
        values = self.tensors[operands[place]].integers() if place < len(operands) else []
        shape = self.tensors[operands[0]].shape
        if name in ("PAD", "PADV2", "MIRROR_PAD"):
            if len(values) != 2 * len(shape) or min(values) < 0:
                return []
            return [n + values[2 * i] + values[2 * i + 1] for i, n in enumerate(shape)]
        return [*shape[:1], *values, *shape[3:]] if name.startswith("RESIZE") else values

    def _metadata(self, root: _Table) -> dict[str, Any]:
        for entry in root.tables(6):
            number = entry.number(1, "I")
            if entry.text(0) == METADATA and number < len(self._buffers):
                with contextlib.suppress(ValueError, RecursionError):
                    found = json.loads(self._buffers[number].text(0))
                    return found if isinstance(found, dict) else {}
        return {}

    def _layout(self) -> str:
        """As the file says, else by the place of a number that is usual for channels."""
        said = self.metadata.get("layout")
        if said in ("NHWC", "NCHW"):
            return str(said)
        first, last = self.input_shape[1], self.input_shape[3]
        return "NCHW" if first in _COLORS and last not in _COLORS else "NHWC"


def _operator(table: _Table) -> str:
    code = max(table.number(0, "b"), table.number(3, "i"))
    if code not in OPERATORS:
        raise ArtifactError(f"operator {code} ({table.text(1)[:40] or 'built-in'}) is not for classifiers")
    return OPERATORS[code]


class _Bytes:
    """A flatbuffer, never read outside."""

    def __init__(self, data: Any) -> None:
        self.data, self.length = data, len(data)

    def read(self, form: str, at: int) -> int:
        if at < 0 or at + struct.calcsize(form) > self.length:
            raise ArtifactError(f"not a whole model: byte {at} is outside of {self.length}")
        value: int = struct.unpack_from("<" + form, self.data, at)[0]
        return value

    def root(self) -> _Table:
        return _Table(self, self.read("I", 0))

    def follow(self, at: int) -> int:
        return at + self.read("I", at)


class _Table:
    """A table of a flatbuffer; fields by their number in the schema, an absent one reads as 0 or empty."""

    def __init__(self, file: _Bytes, at: int) -> None:
        self.file, self.at = file, at
        self._fields = at - file.read("i", at)
        self._size = file.read("H", self._fields)

    def has(self, field: int) -> bool:
        return self._place(field) is not None

    def _place(self, field: int) -> int | None:
        slot = 4 + 2 * field
        offset = self.file.read("H", self._fields + slot) if slot + 2 <= self._size else 0
        return self.at + offset if offset else None

    def number(self, field: int, form: str) -> int:
        place = self._place(field)
        return 0 if place is None else self.file.read(form, place)

    def table(self, field: int) -> _Table:
        place = self._place(field)
        if place is None:
            raise ArtifactError(f"not a whole model: field {field} of the table at {self.at} is missing")
        return _Table(self.file, self.file.follow(place))

    def place(self, field: int, item_bytes: int = 1) -> tuple[int, int]:
        """(start, bytes) of a vector's items."""
        place = self._place(field)
        if place is None:
            return 0, 0
        vector = self.file.follow(place)
        size = self.file.read("I", vector) * item_bytes
        if vector + 4 + size > self.file.length:
            raise ArtifactError(f"not a whole model: a list at byte {vector} goes beyond its end")
        return vector + 4, size

    def numbers(self, field: int, form: str) -> list[Any]:
        start, size = self.place(field, struct.calcsize(form))
        count = size // struct.calcsize(form)
        if count > _LARGEST_COUNT:
            raise ArtifactError(f"a list of {count} numbers is too long")
        return list(struct.unpack_from(f"<{count}{form}", self.file.data, start))

    def tables(self, field: int) -> list[_Table]:
        start, size = self.place(field, 4)
        if size // 4 > _LARGEST_COUNT:
            raise ArtifactError(f"a list of {size // 4} tables is too long")
        return [_Table(self.file, self.file.follow(at)) for at in range(start, start + size, 4)]

    def text(self, field: int) -> str:
        start, size = self.place(field)
        try:
            return bytes(self.file.data[start : start + size]).decode("utf-8")
        except UnicodeDecodeError as error:
            raise ArtifactError(f"a text at byte {start} is not UTF-8") from error
