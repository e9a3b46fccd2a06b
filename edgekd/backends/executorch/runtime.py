"""Runs a .pte program on the device: standard library, NumPy and ExecuTorch, Python 3.8 and newer.

This file is pushed beside the agent and imported by path, so it imports nothing of edgekd; what the agent
asks of it is said in `edgekd/backends/onnx/runtime.py`. The file is read here before ExecuTorch sees it
(`Program`): what it would run, and where, is known before anything of it is loaded, and most damage is found
where it cannot end the process.
"""

from __future__ import annotations

import math
import mmap
import struct
import weakref
from pathlib import Path
from typing import Any, Tuple  # noqa: UP035 - typing's own, for Python 3.8

import numpy as np
import numpy.typing as npt
import torch

# `executorch.runtime` and `portable_lib` import the whole exporter (1,900 modules more, for one warning
# class); the extension module needs torch's libraries only.
from executorch.extension.pybindings import _C

DEFAULT_BACKENDS = ("XnnpackBackend",)
METHOD = "forward"
OUTSIDE = "portable kernels"
_NO_VALUE = 2**32 - 1
_LARGEST_COUNT = 1 << 20

# Positions of unions and enumerations in program.fbs and xnnpack's schema.fbs (ExecuTorch 1.5.1).
_TENSOR, _KERNEL_CALL, _DELEGATE_CALL = 5, 1, 2
_FLOAT_TYPES = {6: "float32"}
_STATIC = 0
_SEGMENT = 1
_PLAIN_VALUE, _QUANTIZED_VALUE = 1, 2
_PER_CHANNEL = 1
_HALF_BYTES = {2: 4, 3: 2, 4: 2, 6: 2, 8: 1, 9: 2, 10: 1, 11: 2, 14: 4}
"""Of an element, by XNNPACK's data type; those not listed have four bytes."""
_PRECISIONS = {1: "fp32", 2: "fp16", 3: "int8", 4: "uint8", 6: "int8", 9: "int8", 14: "bf16"}

# Each node of an XNNPACK graph in the order of `XNodeUnion`, with the fields that hold numbers of values:
# (required inputs, optional inputs, output).
_ONE, _TWO, _CONV, _POOL = ((0,), (), 1), ((0, 1), (), 2), ((15, 16), (17,), 18), ((10,), (), 11)
_NODES: list[tuple[str, tuple[tuple[int, ...], tuple[int, ...], int]]] = [
    ("Add", _TWO),
    ("FullyConnected", ((0, 1), (2,), 3)),
    ("Softmax", _ONE),
    ("Sigmoid", _ONE),
    ("StaticTranspose", ((2,), (), 3)),
    ("Clamp", _ONE),
    ("Conv2d", _CONV),
    ("Div", _TWO),
    ("StaticResizeBilinear2D", ((2,), (), 3)),
    ("StaticConstantPad", ((3,), (), 4)),
    ("AvgPooling2d", _POOL),
    ("Minimum", _TWO),
    ("DepthwiseConv2d", _CONV),
    ("MaxPooling2d", _POOL),
    ("Multiply", _TWO),
    ("Subtract", _TWO),
    ("Floor", _ONE),
    ("Convert", _ONE),
    ("GlobalAvgPooling2d", _ONE),
    ("StaticReshape", ((2,), (), 3)),
    ("ArgMaxPooling2d", ((6,), (), 7)),
    ("SquareRoot", _ONE),
    ("Ceiling", _ONE),
    ("Hardswish", _ONE),
    ("LeakyReLU", ((1,), (), 2)),
    ("Maximum", _TWO),
    ("Negate", _ONE),
    ("Square", _ONE),
    ("ELU", ((1,), (), 2)),
    ("Abs", _ONE),
    ("PReLU", _TWO),
    ("Concatenate2", ((1, 2), (), 5)),
    ("Concatenate3", ((1, 2, 3), (), 5)),
    ("Concatenate4", ((1, 2, 3, 4), (), 5)),
    ("StaticSlice", ((3,), (), 4)),
    ("ScaledDotProductAttention", ((0, 1, 2, 3, 4), (), 5)),
    ("BatchMatrixMultiply", _TWO),
    ("Concatenate5", ((1, 2, 3, 4, 7), (), 5)),
    ("ConvTranspose2d", _CONV),
    ("ReciprocalSquareRoot", _ONE),
    ("Log", _ONE),
    ("Gelu", _ONE),
    ("Tanh", _ONE),
    ("Exp", _ONE),
    ("Sin", _ONE),
    ("Copy", _ONE),
    ("Cos", _ONE),
]


_Value = Tuple[int, int, bool]  # noqa: UP006
"""XNNPACK's data type, count of elements, and whether it is a constant."""


class ArtifactError(Exception):
    """The file is not a program that may be run here."""


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

    `options`: `backends` (delegates that may run, default XNNPACK), `allow_outside` (true: operators may run
    outside them, in ExecuTorch's portable kernels). Raises `ArtifactError` for a truncated, hostile or
    unsuitable file, `FallbackError` when it would run on another backend, outside a delegate, or with
    another number of threads than asked.
    """
    return Graph(path, threads, batch, options or {})


# --- running ------------------------------------------------------------------------------------------------


class Graph:
    """A loaded program: one float input of `input_shape` (`[batch, C, H, W]`), its output the logits."""

    def __init__(self, path: str, threads: int, batch: int, options: dict[str, Any]) -> None:
        self.path, self.threads, self.batch, self.options = path, threads, batch, options
        self.program = read(Path(path))
        self.backends: list[str] = list(options.get("backends") or DEFAULT_BACKENDS)
        _check_placement(self.program, self.backends, allow_outside=bool(options.get("allow_outside")))
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
        by the type of a node's result (conversions left out); `unexpected` names every operator outside.
        `source` says that this is the program's word and not that of an observed run.
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


def _check_placement(program: Program, backends: list[str], *, allow_outside: bool) -> None:
    here = _C._get_registered_backend_names()
    for name in sorted({delegate for delegate, _ in program.delegates}):
        if name not in here:
            raise FallbackError(f"{name} is not in this build, which has {sorted(here)}")
        if name not in backends:
            raise FallbackError(f"{backends} was asked for, the program runs on {name}")
    missing = sorted(set(program.operators) - set(_C._get_operator_names()))
    if missing:
        raise FallbackError(f"this build has no kernel for {missing}")
    if program.operators and not allow_outside:
        raise FallbackError(f"runs outside {backends}: {program.unexpected()}")


# --- reading the file ---------------------------------------------------------------------------------------


def read(path: Path) -> Program:
    """What the program at `path` consists of; raises `ArtifactError` where it is not whole."""
    if not path.is_file():
        raise ArtifactError(f"there is no file {path.name}")
    if path.stat().st_size == 0:
        raise ArtifactError("the file is empty")
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        # Mapped, so that weights, which are skipped, do not count in the peak memory.
        return Program(content)


class Program:
    """The `forward` method of a .pte file: tensors at its ends, delegates, operators outside them."""

    def __init__(self, data: Any) -> None:
        if len(data) < 40 or data[4:6] != b"ET":
            raise ArtifactError("not an ExecuTorch program: the mark `ET` at byte 4 is missing")
        length, segments_at, segment_bytes = _sizes(data)
        file = _Bytes(data, 0, length)
        root = file.root()
        self._segments = _segments(root, segments_at, segment_bytes)
        self._named = _named_bytes(root, self._segments)
        plan = _forward(root)
        self.values = [value.union(0) for value in plan.tables(2)]
        self.input = self._tensor(plan.numbers(3, "i"), "input")
        self.output = self._tensor(plan.numbers(4, "i")[:1], "output")
        names = [_operator_name(one) for one in plan.tables(6)]
        self.delegates = [(one.text(0), self._payload(one, root)) for one in plan.tables(7)]
        self.delegate_calls = 0
        self.operators: dict[str, int] = {}
        for chain in plan.tables(5):
            for instruction in chain.tables(2):
                self._count(*instruction.union(0), names)
        self.nodes = [
            node
            for name, (start, size) in self.delegates
            if name == "XnnpackBackend"
            for node in _xnnpack_nodes(data, start, size, self._named)
        ]

    def input_shape(self, batch: int) -> tuple[int, ...]:
        """`[batch, C, H, W]`; raises `ArtifactError` for a batch that the program does not take."""
        sizes, dynamic = self.input
        if dynamic and batch > sizes[0]:
            raise ArtifactError(f"the program takes batches up to {sizes[0]}, {batch} was asked for")
        if not dynamic and batch != sizes[0]:
            raise ArtifactError(f"the batch is fixed to {sizes[0]}, {batch} was asked for")
        return (batch, *sizes[1:])

    def unexpected(self) -> list[str]:
        return [
            f"{name} ran {count} times outside the delegate" for name, count in sorted(self.operators.items())
        ]

    def summary(self) -> dict[str, Any]:
        """`ops`, `placement`, `precisions`, `unexpected`, `delegate_calls` and `source`."""
        ops: dict[str, int] = {}
        precisions: dict[str, int] = {}
        for kind, precision in self.nodes:
            ops[kind] = ops.get(kind, 0) + 1
            if kind != "Convert":
                precisions[precision] = precisions.get(precision, 0) + 1
        outside = sum(self.operators.values())
        return {
            "ops": {**ops, **self.operators},
            "placement": {"XnnpackBackend": len(self.nodes), **({OUTSIDE: outside} if outside else {})},
            "precisions": precisions,
            "unexpected": self.unexpected(),
            "delegate_calls": self.delegate_calls,
            "source": "program",
        }

    def _tensor(self, indices: list[int], end: str) -> tuple[tuple[int, ...], bool]:
        """(sizes, whether they may be smaller) of the one tensor at an end of the program."""
        if len(indices) != 1 or not 0 <= indices[0] < len(self.values):
            raise ArtifactError(f"needs exactly one {end}, has {len(indices)}")
        kind, table = self.values[indices[0]]
        if kind != _TENSOR or table.number(0, "b") not in _FLOAT_TYPES:
            raise ArtifactError(f"the {end} is not a float32 tensor")
        sizes = tuple(table.numbers(2, "i"))
        if len(sizes) < 2 or min(sizes) < 1:
            raise ArtifactError(f"the {end} has the shape {list(sizes)}")
        return sizes, table.number(8, "b") != _STATIC

    def _payload(self, delegate: _Table, root: _Table) -> tuple[int, int]:
        """(start, bytes) of what a delegate is given."""
        reference = delegate.table(1)
        location, index = reference.number(0, "b"), reference.number(1, "I")
        if location == _SEGMENT:
            if index >= len(self._segments):
                raise ArtifactError("a delegate lies outside the file")
            return self._segments[index]
        inline = root.tables(3)
        if index >= len(inline):
            raise ArtifactError("a delegate lies outside the file")
        return inline[index].place(0)

    def _count(self, kind: int, call: _Table, names: list[str]) -> None:
        known = {_KERNEL_CALL: len(names), _DELEGATE_CALL: len(self.delegates)}
        if kind not in known:
            return
        index = call.number(0, "i")
        values = call.numbers(1, "i")
        if not 0 <= index < known[kind] or any(not 0 <= value < len(self.values) for value in values):
            raise ArtifactError("an instruction names what is not in the program")
        if kind == _DELEGATE_CALL:
            self.delegate_calls += 1
        else:
            self.operators[names[index]] = self.operators.get(names[index], 0) + 1


def _sizes(data: Any) -> tuple[int, int, int]:
    """(bytes of the program, start and bytes of its segments), from the extended header."""
    if data[8:12] != b"eh00":
        return len(data), len(data), 0
    length, start = struct.unpack_from("<QQ", data, 16)
    size = struct.unpack_from("<Q", data, 32)[0] if struct.unpack_from("<I", data, 12)[0] >= 32 else 0
    if length > len(data) or (start and (start < length or start + size > len(data))):
        raise ArtifactError("the program is cut short")
    return length, start or len(data), size


def _segments(root: _Table, start: int, size: int) -> list[tuple[int, int]]:
    found = []
    for segment in root.tables(4):
        offset, length = segment.number(0, "Q"), segment.number(1, "Q")
        if offset + length > size:
            raise ArtifactError("a segment lies outside the file")
        found.append((start + offset, length))
    return found


def _named_bytes(root: _Table, segments: list[tuple[int, int]]) -> dict[str, int]:
    """Name -> bytes of each piece of data that delegates share by name."""
    found = {}
    for one in root.tables(7):
        index = one.number(1, "I")
        if index >= len(segments):
            raise ArtifactError("named data lies outside the file")
        found[one.text(0)] = segments[index][1]
    return found


def _forward(root: _Table) -> _Table:
    plans = {plan.text(0): plan for plan in root.tables(1)}
    if METHOD not in plans:
        raise ArtifactError(f"the program has no method `{METHOD}`, it has {sorted(plans)}")
    return plans[METHOD]


def _operator_name(table: _Table) -> str:
    name, overload = table.text(0), table.text(1)
    return f"{name}.{overload}" if overload else name


def _xnnpack_nodes(data: Any, start: int, size: int, named: dict[str, int]) -> list[tuple[str, str]]:
    """(kind, precision of the result) of every node of an XNNPACK graph, in running order.

    Also checks what XNNPACK's delegate takes on trust, and reads or writes outside of its memory where it is
    not so: numbers of values, and the sizes of constants.
    """
    if size < 30 or data[start + 4 : start + 8] != b"XH00":
        raise ArtifactError("the XNNPACK delegate has no header")
    at, length, constants_at = struct.unpack_from("<III", data, start + 10)
    constant_bytes = struct.unpack_from("<Q", data, start + 22)[0]
    if at + length > size or constants_at + constant_bytes > size:
        raise ArtifactError("the XNNPACK delegate is cut short")
    graph = _Bytes(data, start + at, length).root()
    values = _values(graph, _constant_sizes(graph, named, constant_bytes))
    known = {number for number, value in values.items() if value[2]} | set(graph.numbers(4, "I"))
    return [_checked_node(*node.union(0), values, known) for node in graph.tables(1)]


def _constant_sizes(graph: _Table, named: dict[str, int], constant_bytes: int) -> list[int]:
    """Bytes of every constant of an XNNPACK graph; number 0 stands for none."""
    sizes = [0]
    for constant in graph.tables(8)[1:]:
        offset, size, key = constant.number(0, "Q"), constant.number(1, "Q"), constant.text(2)
        if size > named.get(key, -1) if key else offset + size > constant_bytes:
            raise ArtifactError("a constant of the XNNPACK delegate lies outside the file")
        sizes.append(size)
    return sizes


def _checked_node(kind: int, table: _Table, values: dict[int, _Value], known: set[int]) -> tuple[str, str]:
    """(kind, precision of the result) of one node, which may read `known` values only and adds its own.

    In this order a node whose kind was changed hardly passes: its fields then are no numbers of values.
    """
    if not 1 <= kind <= len(_NODES):
        raise ArtifactError(f"the XNNPACK delegate has a node of unknown kind {kind}")
    name, (inputs, optional, output) = _NODES[kind - 1]
    read = [table.number(field, "I") for field in inputs]
    read += [number for field in optional if (number := table.number(field, "I")) != _NO_VALUE]
    written = table.number(output, "I")
    if not known.issuperset(read) or written in known or not {*read, written} <= set(values):
        raise ArtifactError(f"{name} in the XNNPACK delegate names a value that it cannot have")
    known.add(written)
    if name in ("Conv2d", "DepthwiseConv2d", "ConvTranspose2d"):
        _check_convolution(table, values)
    datatype = values[written][0]
    return name, _PRECISIONS.get(datatype, f"type {datatype}")


def _check_convolution(table: _Table, values: dict[int, _Value]) -> None:
    """XNNPACK reads as many weights as a convolution's own numbers say."""
    height, width, inputs, outputs, groups = (table.number(field, "I") for field in (4, 5, 10, 11, 12))
    filter_count = values[table.number(16, "I")][1]
    bias = values.get(table.number(17, "I"))
    if height * width * inputs * outputs * groups != filter_count or (bias and bias[1] != outputs * groups):
        raise ArtifactError("a convolution in the XNNPACK delegate does not fit its weights")


def _values(graph: _Table, constants: list[int]) -> dict[int, _Value]:
    """The values of an XNNPACK graph by their numbers."""
    found: dict[int, _Value] = {}
    for value in graph.tables(2):
        kind, table = value.union(0)
        if kind not in (_PLAIN_VALUE, _QUANTIZED_VALUE):
            raise ArtifactError(f"the XNNPACK delegate has a value of unknown kind {kind}")
        plain = table.table(0) if kind == _QUANTIZED_VALUE else table
        sizes, datatype, constant = plain.numbers(2, "I"), plain.number(0, "h"), plain.number(3, "I")
        if len(sizes) != plain.number(1, "I"):
            raise ArtifactError("a value of the XNNPACK delegate has another rank than it says")
        if constant >= len(constants):
            raise ArtifactError("a value of the XNNPACK delegate names a constant that does not exist")
        count = math.prod(sizes)
        if constant and count * _HALF_BYTES.get(datatype, 8) > 2 * constants[constant]:
            raise ArtifactError("a constant of the XNNPACK delegate is smaller than its shape")
        if kind == _QUANTIZED_VALUE and table.number(1, "B") == _PER_CHANNEL:
            _check_steps(table.table(2), sizes, constants)
        found[plain.number(6, "I")] = (datatype, count, constant > 0)
    return found


def _check_steps(table: _Table, sizes: list[int], constants: list[int]) -> None:
    """One step for each channel of a value: in the table, or in a constant."""
    channel, constant, amount = table.number(1, "i"), table.number(2, "I"), table.number(3, "I")
    inline = len(table.numbers(0, "f"))
    in_constant = 0 < constant < len(constants) and 4 * amount <= constants[constant]
    count = inline or (amount if in_constant else 0)
    if not 0 <= channel < len(sizes) or count < sizes[channel]:
        raise ArtifactError("a value of the XNNPACK delegate has fewer steps than channels")


class _Bytes:
    """A flatbuffer: `length` bytes from `start` on, never read outside."""

    def __init__(self, data: Any, start: int, length: int) -> None:
        self.data, self.start, self.length = data, start, length

    def read(self, form: str, at: int) -> int:
        if at < 0 or at + struct.calcsize(form) > self.length:
            raise ArtifactError(f"not a whole program: byte {at} is outside of {self.length}")
        value: int = struct.unpack_from("<" + form, self.data, self.start + at)[0]
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
            raise ArtifactError(
                f"not a whole program: field {field} of the table at byte {self.at} is missing"
            )
        return _Table(self.file, self.file.follow(place))

    def union(self, field: int) -> tuple[int, _Table]:
        """(kind, table); the value's field follows the one of the kind."""
        return self.number(field, "B"), self.table(field + 1)

    def place(self, field: int, item_bytes: int = 1) -> tuple[int, int]:
        """(start in the file, bytes) of a vector's items."""
        place = self._place(field)
        if place is None:
            return self.file.start, 0
        vector = self.file.follow(place)
        count = self.file.read("I", vector) * item_bytes
        if vector + 4 + count > self.file.length:
            raise ArtifactError(f"not a whole program: a list at byte {vector} goes beyond its end")
        return self.file.start + vector + 4, count

    def numbers(self, field: int, form: str) -> list[int]:
        start, size = self.place(field, struct.calcsize(form))
        count = size // struct.calcsize(form)
        if count > _LARGEST_COUNT:
            raise ArtifactError(f"a list of {count} numbers is too long")
        return list(struct.unpack_from(f"<{count}{form}", self.file.data, start))

    def tables(self, field: int) -> list[_Table]:
        start, size = self.place(field, 4)
        if size // 4 > _LARGEST_COUNT:
            raise ArtifactError(f"a list of {size // 4} tables is too long")
        places = range(start - self.file.start, start - self.file.start + size, 4)
        return [_Table(self.file, self.file.follow(place)) for place in places]

    def text(self, field: int) -> str:
        start, size = self.place(field)
        return bytes(self.file.data[start : start + size]).decode("utf-8", "replace")
