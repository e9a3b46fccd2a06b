"""What a .pte consists of, read before ExecuTorch sees it; Python 3.8 and newer.

Pushed to devices: imports nothing of edgekd.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from .executorch_flatbuffer import ArtifactError, Bytes, Table
    from .executorch_xnnpack import xnnpack_nodes
else:  # on the device, where the files lie side by side
    from executorch_flatbuffer import ArtifactError, Bytes, Table
    from executorch_xnnpack import xnnpack_nodes

METHOD = "forward"
METADATA_METHOD = "edgekd_metadata"
"""A method of the program without inputs that gives labels, preprocessing and the like as JSON text."""
OUTSIDE_KEY, ALLOWED = "outside", "allowed"
"""In the metadata of a program whose exporter was asked for operators outside of XNNPACK, if need be."""
OUTSIDE = "portable kernels"

# Positions of unions and enumerations in program.fbs (ExecuTorch 1.5.1).
_TENSOR, _STRING, _KERNEL_CALL, _DELEGATE_CALL = 5, 6, 1, 2
_FLOAT_TYPES = {6: "float32"}
_STATIC = 0
_SEGMENT = 1


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
        file = Bytes(data, 0, length)
        root = file.root()
        self._segments = _segments(root, segments_at, segment_bytes)
        self._named = _named_bytes(root, self._segments)
        plan = _plan(root, METHOD)
        self.metadata = _metadata(root)
        self.allows_outside = self.metadata.get(OUTSIDE_KEY) == ALLOWED
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
            for node in xnnpack_nodes(data, start, size, self._named)
        ]

    def input_shape(self, batch: int) -> tuple[int, ...]:
        """`[batch, C, H, W]`; raises `ArtifactError` for a batch that the program does not take."""
        sizes, dynamic = self.input
        if dynamic and batch > sizes[0]:
            raise ArtifactError(f"the program takes batches up to {sizes[0]}, {batch} was asked for")
        if not dynamic and batch != sizes[0]:
            raise ArtifactError(f"the batch is fixed to {sizes[0]}, {batch} was asked for")
        return (batch, *sizes[1:])

    def outside(self) -> list[str]:
        """In words, every operator that no delegate takes."""
        return [
            f"{name} ran {count} times outside the delegate" for name, count in sorted(self.operators.items())
        ]

    def summary(self) -> dict[str, Any]:
        """`ops`, `placement`, `precisions`, `outside`, `unexpected`, `delegate_calls` and `source`."""
        ops: dict[str, int] = {}
        precisions: dict[str, int] = {}
        for kind, precision in self.nodes:
            ops[kind] = ops.get(kind, 0) + 1
            if kind != "Convert":
                precisions[precision] = precisions.get(precision, 0) + 1
        outside = {OUTSIDE: sum(self.operators.values())} if self.operators else {}
        return {
            "ops": {**ops, **self.operators},
            "placement": {"XnnpackBackend": len(self.nodes), **outside},
            "precisions": {**precisions, **outside},
            "outside": self.outside(),
            "unexpected": [] if self.allows_outside else self.outside(),
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

    def _payload(self, delegate: Table, root: Table) -> tuple[int, int]:
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

    def _count(self, kind: int, call: Table, names: list[str]) -> None:
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


def _segments(root: Table, start: int, size: int) -> list[tuple[int, int]]:
    found = []
    for segment in root.tables(4):
        offset, length = segment.number(0, "Q"), segment.number(1, "Q")
        if offset + length > size:
            raise ArtifactError("a segment lies outside the file")
        found.append((start + offset, length))
    return found


def _named_bytes(root: Table, segments: list[tuple[int, int]]) -> dict[str, int]:
    """Name -> bytes of each piece of data that delegates share by name."""
    found = {}
    for one in root.tables(7):
        index = one.number(1, "I")
        if index >= len(segments):
            raise ArtifactError("named data lies outside the file")
        found[one.text(0)] = segments[index][1]
    return found


def _plan(root: Table, method: str) -> Table:
    plans = {plan.text(0): plan for plan in root.tables(1)}
    if method not in plans:
        raise ArtifactError(f"the program has no method `{method}`, it has {sorted(plans)}")
    return plans[method]


def _metadata(root: Table) -> dict[str, Any]:
    """What the program tells of itself; empty where it tells nothing that can be read."""
    with contextlib.suppress(ArtifactError, IndexError, ValueError, RecursionError):
        plan = _plan(root, METADATA_METHOD)
        kind, value = plan.tables(2)[plan.numbers(4, "i")[0]].union(0)
        found = json.loads(value.text(0)) if kind == _STRING else {}
        return found if isinstance(found, dict) else {}
    return {}


def _operator_name(table: Table) -> str:
    name, overload = table.text(0), table.text(1)
    return f"{name}.{overload}" if overload else name
