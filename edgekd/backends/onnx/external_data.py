"""Writes a graph whose weights do not fit in its file as two files that belong together.

The graph names the digest of its weights, and its runtime checks it, so that the graph's own digest stands
for both. Offsets are multiples of `ALIGNMENT`, so that the weights can be mapped.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from edgekd.backends.onnx.onnx_file import COMPANION, DIGEST, ArtifactError, check_file
from edgekd.core.durable import disk_error, sync
from edgekd.core.errors import ModelError, StoreError

if TYPE_CHECKING:
    import onnx_ir as ir

ONE_FILE_BYTES = 2**31 - 2**24
"""Of weights in one file: protobuf ends at 2 GiB, and the graph itself takes some."""
LARGEST_FILE = 2**31 - 1
ALIGNMENT = 4096
DIGEST_KEY = DIGEST.decode()
_LEAST = 1024
"""Bytes of a tensor that is worth a place of its own."""
_PIECE = 1 << 24


class DataFile:
    """Tensors one after another in a stream that starts at 0."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self._at = 0

    def add(self, pieces: Iterable[bytes | memoryview]) -> int:
        """Write one tensor's bytes; the offset where it begins."""
        self._write(bytes(-self._at % ALIGNMENT))
        offset = self._at
        for piece in pieces:
            self._write(piece)
        return offset

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def _write(self, piece: bytes | memoryview) -> None:
        self._stream.write(piece)
        self._digest.update(piece)
        self._at += len(piece)


@contextmanager
def replacing_both(path: Path) -> Iterator[Path]:
    """Yield the same name in a folder of its own; the file there, and the one with its weights, then take
    their places together.

    Two names cannot change at once. So where weights are or were beside it, the graph goes away first, and
    comes last; a crash in between leaves no graph. Raises `StoreError`.
    """
    made = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp") / path.name
    weights, before = made.with_suffix(COMPANION), path.with_suffix(COMPANION)
    try:
        made.parent.mkdir(parents=True)
        yield made
        sync(made)
        if weights.is_file() or before.is_file():
            path.unlink(missing_ok=True)
            sync(path.parent)
            before.unlink(missing_ok=True)
        if weights.is_file():
            sync(weights)
            os.replace(weights, before)
        os.replace(made, path)
        sync(path.parent)
    except OSError as error:
        raise disk_error(path, error) from error
    finally:
        shutil.rmtree(made.parent, ignore_errors=True)


# --- a graph of our own, in memory --------------------------------------------------------------------------


def weight_bytes(model: ir.Model) -> int:
    """Of the initializers that are not moved out."""
    import onnx_ir as ir

    tensors = (value.const_value for value in model.graph.initializers.values())
    inside = (one for one in tensors if one is not None and not isinstance(one, ir.ExternalTensor))
    return sum(int(tensor.nbytes) for tensor in inside)


def move_out(model: ir.Model, path: Path) -> None:
    """Write the larger initializers beside `path`, where the model is to be written, and leave in the model
    where each one is, and the digest of them all."""
    import onnx_ir as ir

    file = path.with_suffix(COMPANION)
    with file.open("wb") as stream:
        data = DataFile(stream)
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.nbytes < _LEAST:
                continue
            value.const_value = ir.ExternalTensor(
                file.name,
                data.add(_pieces(tensor)),
                int(tensor.nbytes),
                tensor.dtype,
                shape=tensor.shape,  # type: ignore[arg-type]  # of an initializer it is never symbolic
                name=tensor.name or value.name or "",
                base_dir=path.parent,
            )
        model.metadata_props[DIGEST_KEY] = data.sha256


def _pieces(tensor: Any) -> Iterator[memoryview]:
    content = memoryview(tensor.tobytes())
    for start in range(0, len(content), _PIECE):
        yield content[start : start + _PIECE]


# --- somebody's graph, and the weights in its folder --------------------------------------------------------


def gather(model: Any, source: Path, path: Path, *, one_file_bytes: int = ONE_FILE_BYTES) -> bool:
    """Write `model`, the graph in `source` without its external data, to `path` with all its weights.

    They are taken into the file, or where that is more than `one_file_bytes`, into the one beside it, which
    is told. Raises `ModelError` for data that are not there, outside the folder or cut short, `StoreError`.
    """
    try:
        outline = check_file(source)
    except ArtifactError as error:
        raise ModelError(str(error), where=str(source)) from error
    sizes = {(one.name, one.location, one.offset): one.end - one.offset for one in outline.external}
    is_beside = bool(model.ByteSize() + sum(sizes.values()) > one_file_bytes)
    _check_disk(path, sum(sizes.values()))
    with replacing_both(path) as made:
        _place(model, source, sizes, made.with_suffix(COMPANION) if is_beside else None)
        content = model.SerializeToString(deterministic=True)
        if len(content) > LARGEST_FILE:
            raise ModelError("the graph alone takes over 2 GB, and a file holds no more", where=str(source))
        made.write_bytes(content)
    return is_beside


def _place(model: Any, source: Path, sizes: Mapping[tuple[str, str, int], int], file: Path | None) -> None:
    """Move the external tensors of `model` into `file`, or without one into the model."""
    _forget_digest(model)
    if file is None:
        for tensor, _, pieces in _external(model, source, sizes):
            _take_in(tensor, pieces)
        return
    with file.open("wb") as stream:
        data = DataFile(stream)
        for tensor, size, pieces in _external(model, source, sizes):
            if size < _LEAST:  # of small ones, shapes are inferred
                _take_in(tensor, pieces)
                continue
            entries = {"location": file.name, "offset": data.add(pieces), "length": size}
            del tensor.external_data[:]
            for key, entry in entries.items():
                tensor.external_data.add(key=key, value=str(entry))
    model.metadata_props.add(key=DIGEST_KEY, value=data.sha256)


def _external(
    model: Any, source: Path, sizes: Mapping[tuple[str, str, int], int]
) -> Iterator[tuple[Any, int, Iterator[bytes]]]:
    """Each tensor that is beside the graph, its bytes and their number."""
    from onnx.external_data_helper import ExternalDataInfo, _get_all_tensors, uses_external_data

    for tensor in _get_all_tensors(model):
        if uses_external_data(tensor):
            info = ExternalDataInfo(tensor)
            offset = int(info.offset or 0)
            size = sizes[tensor.name, info.location, offset]
            yield tensor, size, _of_file(_where(source, info.location), offset, size)


def _take_in(tensor: Any, pieces: Iterator[bytes]) -> None:
    tensor.raw_data = b"".join(pieces)
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")


def _where(source: Path, location: str) -> Path:
    """Our own graph may have been renamed together with its weights."""
    own = source.with_suffix(COMPANION)
    return own if own.is_file() and not (source.parent / location).is_file() else source.parent / location


def _of_file(path: Path, offset: int, size: int) -> Iterator[bytes]:
    with path.open("rb") as stream:
        stream.seek(offset)
        while size > 0 and (piece := stream.read(min(size, _PIECE))):
            size -= len(piece)
            yield piece


def _forget_digest(model: Any) -> None:
    kept = [(one.key, one.value) for one in model.metadata_props if one.key != DIGEST_KEY]
    del model.metadata_props[:]
    for key, value in kept:
        model.metadata_props.add(key=key, value=value)


def _check_disk(path: Path, size: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise StoreError(
            f"its weights take {size} bytes, and {free} are free",
            where=str(path),
            fix="free disk space, or choose a folder on another disk",
        )
