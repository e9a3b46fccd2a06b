"""What a .tflite consists of, read before LiteRT sees it; Python 3.8 and newer.

Pushed to devices: imports nothing of edgekd.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from .litert_flatbuffer import ArtifactError, Bytes, Table
else:  # on the device, where the files lie side by side
    from litert_flatbuffer import ArtifactError, Bytes, Table

METADATA = "edgekd"
"""Name of the metadata entry with our JSON: labels, layout, preprocessing."""
_CASTS = ("QUANTIZE", "DEQUANTIZE", "CAST")
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
_FARTHEST = float(1 << 18)
"""Ratio of steps: LiteRT ends the process where a multiplier does not fit its fixed-point form."""
_LARGEST_TENSOR = 1 << 31
"""Bytes: no classifier of an image has larger ones."""


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

    def __init__(self, table: Table, buffers: list[Table]) -> None:
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


def _steps(table: Table, shape: list[int]) -> list[float]:
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
        root = Bytes(data).root()
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

    def _follow(self, graph: Table, codes: list[str]) -> None:
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
            self.operators[codes[code]] = self.operators.get(codes[code], 0) + 1
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

    def _metadata(self, root: Table) -> dict[str, Any]:
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


def _operator(table: Table) -> str:
    code = max(table.number(0, "b"), table.number(3, "i"))
    if code not in OPERATORS:
        raise ArtifactError(f"operator {code} ({table.text(1)[:40] or 'built-in'}) is not for classifiers")
    return OPERATORS[code]
