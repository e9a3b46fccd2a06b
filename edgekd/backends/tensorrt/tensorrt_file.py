"""Looks at an ONNX file before TensorRT does; pushed beside runtime.py, standard library alone."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Dict, Iterator  # noqa: UP035 - typing's own, for Python 3.8

_MAX_DEPTH = 64

# Which fields of the ONNX protobuf lead to a tensor that may name a file (onnx/onnx.proto).
_FIELDS: Dict[str, Dict[int, str]] = {  # noqa: UP006
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
    "tensor": {13: "external"},
}


class ArtifactError(Exception):
    """The file is not a graph that TensorRT builds an engine of."""


def check_file(path: Path) -> None:
    """Raises `ArtifactError` unless `path` is one whole ONNX file, which reads no other."""
    if not path.is_file():
        raise ArtifactError(f"there is no file {path.name}")
    if path.stat().st_size == 0:
        raise ArtifactError("the file is empty")
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if not _walk(content, 0, len(content), "model", 0):
            raise ArtifactError("not an ONNX file: it holds no graph")


def _walk(data: mmap.mmap, start: int, end: int, kind: str, depth: int) -> int:
    """Walk one protobuf message whole; the number of messages below it that matter."""
    if kind == "external":
        raise ArtifactError("its tensors are in another file: only one file is pushed")
    if depth > _MAX_DEPTH:
        raise ArtifactError(f"graphs are nested deeper than {_MAX_DEPTH}")
    known, count = _FIELDS[kind], 0
    for field, low, high in _fields(data, start, end):
        if field in known:
            _walk(data, low, high, known[field], depth + 1)
            count += 1
    return count


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, start, end) of each length-delimited field of one protobuf message."""
    at = start
    while at < end:
        tag, at = _varint(data, at, end)
        kind, low = tag & 7, at
        if kind == 0:
            _, at = _varint(data, at, end)
        elif kind == 2:
            size, low = _varint(data, at, end)
            at = low + size
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise ArtifactError(f"not an ONNX file (wire type {kind} at byte {low})")
        if at > end:
            raise ArtifactError(f"not an ONNX file, or cut short (byte {low})")
        if kind == 2:
            yield tag >> 3, low, at


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
