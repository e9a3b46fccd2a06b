"""The graph within XNNPACK's delegate of a .pte: what would run in which precision; Python 3.8 and newer.

Pushed to devices: imports nothing of edgekd.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any, Tuple  # noqa: UP035 - typing's own, for Python 3.8

if TYPE_CHECKING or __package__:
    from .executorch_flatbuffer import ArtifactError, Bytes, Table
else:  # on the device, where the files lie side by side
    from executorch_flatbuffer import ArtifactError, Bytes, Table

_NO_VALUE = 2**32 - 1

# Positions of unions and enumerations in xnnpack's schema.fbs (ExecuTorch 1.5.1).
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


def xnnpack_nodes(data: Any, start: int, size: int, named: dict[str, int]) -> list[tuple[str, str]]:
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
    graph = Bytes(data, start + at, length).root()
    values = _values(graph, _constant_sizes(graph, named, constant_bytes))
    known = {number for number, value in values.items() if value[2]} | set(graph.numbers(4, "I"))
    return [_checked_node(*node.union(0), values, known) for node in graph.tables(1)]


def _constant_sizes(graph: Table, named: dict[str, int], constant_bytes: int) -> list[int]:
    """Bytes of every constant of an XNNPACK graph; number 0 stands for none."""
    sizes = [0]
    for constant in graph.tables(8)[1:]:
        offset, size, key = constant.number(0, "Q"), constant.number(1, "Q"), constant.text(2)
        if size > named.get(key, -1) if key else offset + size > constant_bytes:
            raise ArtifactError("a constant of the XNNPACK delegate lies outside the file")
        sizes.append(size)
    return sizes


def _checked_node(kind: int, table: Table, values: dict[int, _Value], known: set[int]) -> tuple[str, str]:
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


def _check_convolution(table: Table, values: dict[int, _Value]) -> None:
    """XNNPACK reads as many weights as a convolution's own numbers say."""
    height, width, inputs, outputs, groups = (table.number(field, "I") for field in (4, 5, 10, 11, 12))
    filter_count = values[table.number(16, "I")][1]
    bias = values.get(table.number(17, "I"))
    if height * width * inputs * outputs * groups != filter_count or (bias and bias[1] != outputs * groups):
        raise ArtifactError("a convolution in the XNNPACK delegate does not fit its weights")


def _values(graph: Table, constants: list[int]) -> dict[int, _Value]:
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


def _check_steps(table: Table, sizes: list[int], constants: list[int]) -> None:
    """One step for each channel of a value: in the table, or in a constant."""
    channel, constant, amount = table.number(1, "i"), table.number(2, "I"), table.number(3, "I")
    inline = len(table.numbers(0, "f"))
    in_constant = 0 < constant < len(constants) and 4 * amount <= constants[constant]
    count = inline or (amount if in_constant else 0)
    if not 0 <= channel < len(sizes) or count < sizes[channel]:
        raise ArtifactError("a value of the XNNPACK delegate has fewer steps than channels")
