"""Looks at an ONNX file before ONNX Runtime does; pushed beside runtime.py, standard library alone.

What is read is not to be trusted: a file is walked field by field, nothing in it is run, and what it declares
costs no memory.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator, Tuple  # noqa: UP035 - typing's own, for Python 3.8

_MAX_DEPTH = 64
COMPANION = ".onnx.data"
"""Suffix of the file beside a graph that holds its weights, where one file cannot hold both."""
DIGEST = b"external_data_sha256"
"""The metadata that binds a graph to it."""

# Which fields of the ONNX protobuf lead to a tensor that may name a file (onnx/onnx.proto).
_FIELDS: Dict[str, Dict[int, str]] = {  # noqa: UP006
    "model": {7: "graph", 14: "metadata", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
    "metadata": {},
}
_BYTES, _SPARSE_DIMS, _STRING = 2, 3, 8
_VALUES = (4, 5, 7, 10, 11)
"""Fields of a tensor that hold its values, but for raw bytes."""
_BITS = {1: 32, 4: 16, 5: 16, 6: 32, 7: 64, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16}
_BITS.update({21: 4, 22: 4, 23: 4, 25: 2, 26: 2})  # of a value by its type; all others take a byte
_MOST_DIGITS = 18
_MOST_VALUES = 1 << 28
_MOST_NODES = 10**6

Name = Tuple[bytes, bytes]  # noqa: UP006
Calls = Dict[Name, int]  # noqa: UP006


class ArtifactError(Exception):
    """The file is not a graph that may be run here."""


def check_file(path: Path) -> Outline:
    """Raises `ArtifactError` unless `path` is a whole ONNX file that reads nothing outside its own folder.

    Whole: every tensor has the bytes that it declares, here or in a file beside.
    """
    if not path.is_file():
        raise ArtifactError(f"there is no file {path.name}")
    if path.stat().st_size == 0:
        raise ArtifactError("the file is empty")
    outline = Outline()
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        # Mapped, so that weights, which are skipped, do not count in the peak memory.
        if not outline.read(content, 0, len(content), "model", 0):
            raise ArtifactError("not an ONNX file: it holds no graph")
    _check_unfolded(outline)
    if outline.digest is not None:
        _check_companion(path, outline)
    else:
        for tensor in outline.external:
            _check_range(_inside(path.resolve().parent, tensor.location), tensor)
    return outline


def _inside(folder: Path, location: str) -> Path:
    odd = "\\" in location or "\0" in location or Path(location).is_absolute()
    real = folder if odd else Path(folder, location).resolve()
    if folder not in real.parents:
        raise ArtifactError(f"external data outside the model's folder: {location!r}")
    if not real.is_file():
        raise ArtifactError(f"external data is missing: {location!r}")
    return real


def _check_range(file: Path, tensor: External) -> None:
    size = file.stat().st_size
    if tensor.end > size:
        raise ArtifactError(
            f"external data is cut short: {tensor.location!r} has {size} bytes, `{tensor.name}` reads "
            f"{tensor.end - tensor.offset} at {tensor.offset}"
        )


def _check_companion(path: Path, outline: Outline) -> None:
    """Of a file that names the digest of its weights: these are beside it, whatever both are called now."""
    file = path.with_suffix(COMPANION)
    if not file.is_file():
        raise ArtifactError(f"its weights are missing: {file.name}")
    for tensor in outline.external:
        if tensor.location in ("", ".", "..") or Path(tensor.location).name != tensor.location:
            raise ArtifactError(f"external data outside the model's folder: {tensor.location!r}")
        _check_range(file, tensor)
    digest = hashlib.sha256()
    with file.open("rb") as stream:  # in small pieces, which do not count in the peak memory
        for piece in iter(lambda: stream.read(1 << 18), b""):
            digest.update(piece)
    if digest.hexdigest() != outline.digest:
        raise ArtifactError(
            f"{file.name} is damaged or of another export: its sha256 is {digest.hexdigest()}"
        )


@contextmanager
def as_named(path: Path, outline: Outline) -> Iterator[Path]:
    """The graph with its weights beside it under the name that it gives them; on a device all have others."""
    names = {tensor.location for tensor in outline.external} if outline.digest is not None else set()
    if names <= {path.with_suffix(COMPANION).name}:
        yield path
        return
    folder = tempfile.mkdtemp(prefix="edgekd-graph-", dir=str(path.parent))
    try:
        named = Path(folder, "".join(sorted(names)) + ".onnx")
        for name in names:
            _link(path.with_suffix(COMPANION), Path(folder, name))
        _link(path, named)
        yield named
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _link(file: Path, name: Path) -> None:
    """Not a symbolic link: ONNX Runtime does not follow those out of a model's folder."""
    try:
        os.link(str(file), str(name))
    except OSError:  # not every file system of a device has links
        shutil.copyfile(str(file), str(name))


class External:
    """A tensor whose `end - offset` bytes are in the file `location`."""

    def __init__(self, name: str, size: int, entries: dict[bytes, bytes]) -> None:
        """`size`: bytes that its shape and type need; raises `ArtifactError` where the entries differ."""
        self.name = name
        self.location = entries[b"location"].decode("utf-8", "replace")
        self.offset = self._bytes(entries, b"offset", 0)
        length = self._bytes(entries, b"length", size)
        if length != size:
            raise ArtifactError(f"`{name}` takes {size} bytes, and says that {length} are its own")
        self.end = self.offset + size

    def _bytes(self, entries: dict[bytes, bytes], key: bytes, default: int) -> int:
        written = entries.get(key)
        if written is None:
            return default
        if not written.isdigit() or len(written) > _MOST_DIGITS:
            shown = written[:20].decode("utf-8", "replace")
            raise ArtifactError(f"the external data of `{self.name}` have the {key.decode()} {shown!r}")
        return int(written)


class Outline:
    """What is looked at in a file before ONNX Runtime reads it: its form, and where its weights are."""

    def __init__(self) -> None:
        self.external: list[External] = []
        self.main: Calls = {}
        """Operators of the graph by name, those of its subgraphs included."""
        self.functions: dict[Name, Calls] = {}
        """The same of each function of the file."""
        self._calls = self.main
        self.digest: str | None = None
        """sha256 of the weights in the one file that belongs to this one (`COMPANION`)."""

    def read(self, data: mmap.mmap, start: int, end: int, kind: str, depth: int) -> int:
        """Walk one protobuf message; returns how many known messages are below it."""
        if depth > _MAX_DEPTH:
            raise ArtifactError(f"graphs are nested deeper than {_MAX_DEPTH}")
        if kind == "function":
            self._calls = self.functions.setdefault(_name(data, start, end, 1, 10), {})
        elif kind in ("graph", "training") and depth == 1:
            self._calls = self.main
        elif kind == "node":
            called = _name(data, start, end, 4, 7)
            self._calls[called] = self._calls.get(called, 0) + 1
        if kind == "metadata":
            key, value = _pair(data, start, end)
            self.digest = value.decode("utf-8", "replace") if key == DIGEST else self.digest
        if kind == "tensor":
            self._read_tensor(data, start, end)
        known, count = _FIELDS[kind], 0
        dims: list[int] = []
        for field, wire, low, high in _fields(data, start, end):
            if kind == "sparse" and field == _SPARSE_DIMS:
                dims += _numbers(data, wire, low, high)
            if wire == _BYTES and field in known:
                self.read(data, low, high, known[field], depth + 1)
                count += 1
        if math.prod(dims) > _MOST_VALUES:
            raise ArtifactError(f"a sparse tensor declares {math.prod(dims)} values")
        return count

    def _read_tensor(self, data: mmap.mmap, start: int, end: int) -> None:
        dims: list[int] = []
        name, kind, raw, held = "", 0, None, 0
        entries: dict[bytes, bytes] = {}
        for field, wire, low, high in _fields(data, start, end):
            if field == 1:
                dims += _numbers(data, wire, low, high)
            elif field == 2:
                kind = low
            elif field == 8:
                name = data[low : min(high, low + 200)].decode("utf-8", "replace")
            elif field == 9:
                raw = high - low
            elif field in _VALUES:
                held += high - low if wire == _BYTES else 1
            elif field == 13:
                key, value = _pair(data, low, high)
                if key in entries:
                    raise ArtifactError(f"the external data of `{name}` are described twice")
                entries[key] = value
        values = math.prod(dims)
        if any(size >> 63 for size in dims):
            raise ArtifactError(f"`{name}` has a negative size")
        size = -(-values * _BITS.get(kind, 8) // 8)
        if b"location" in entries:
            self.external.append(External(name, size, entries))
        elif kind != _STRING and (raw < size if raw is not None else held < values // 4):
            raise ArtifactError(f"`{name}` declares {values} values, and holds {raw or held} bytes")


def _name(data: mmap.mmap, start: int, end: int, name: int, domain: int) -> Name:
    """Domain and name, by the numbers of their fields."""
    found = {field: data[low:high] for field, wire, low, high in _fields(data, start, end) if wire == _BYTES}
    return found.get(domain, b"").replace(b"ai.onnx", b"", 1), found.get(name, b"")


def _check_unfolded(outline: Outline) -> None:
    """ONNX Runtime puts every function in the place of its calls; a few, each calling the next, are billions.

    Raises `ArtifactError` for these, and for a function that calls itself.
    """
    sizes: dict[Name, int] = {}
    under_way: set[Name] = set()

    def size_of(calls: Calls) -> int:
        return sum(count * unfolded(name) for name, count in calls.items())

    def unfolded(name: Name) -> int:
        if name not in outline.functions:
            return 1
        if name in under_way or len(under_way) > _MAX_DEPTH:
            raise ArtifactError("a function of the graph calls itself, or others too deep")
        if name not in sizes:
            under_way.add(name)
            sizes[name] = size_of(outline.functions[name])
            under_way.remove(name)
        return sizes[name]

    total = size_of(outline.main)
    if total > _MOST_NODES:
        raise ArtifactError(f"its functions unfold into more than {_MOST_NODES} operations")


def _pair(data: mmap.mmap, start: int, end: int) -> tuple[bytes, bytes]:
    """Key and value; repeated fields: the last one counts, as in protobuf."""
    pair = {field: data[low:high] for field, wire, low, high in _fields(data, start, end) if wire == _BYTES}
    return pair.get(1, b""), pair.get(2, b"")


def _numbers(data: mmap.mmap, wire: int, low: int, high: int) -> list[int]:
    """Of a repeated integer, which may be packed."""
    if wire != _BYTES:
        return [low]
    found, at = [], low
    while at < high:
        number, at = _varint(data, at, high)
        found.append(number)
    return found


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(number, wire type, start, end) of each field of one message; of an integer, its value as start."""
    at = start
    while at < end:
        tag, at = _varint(data, at, end)
        wire, low = tag & 7, at
        if wire == 0:
            low, at = _varint(data, at, end)
        elif wire == _BYTES:
            size, low = _varint(data, at, end)
            at = low + size
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise ArtifactError(f"not an ONNX file (wire type {wire} at byte {low})")
        if at > end:
            raise ArtifactError(f"not an ONNX file, or cut short (byte {low})")
        yield tag >> 3, wire, low, at


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at
    raise ArtifactError(f"not an ONNX file, or cut short (byte {at})")
