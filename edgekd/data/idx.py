"""Reading IDX files (the MNIST format), plain or gzipped, with every field of the header checked."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from edgekd.core.errors import DataError

_UNSIGNED_BYTE = 0x08
_MAX_BYTES = 4 << 30


def read_idx(path: Path, num_dimensions: int) -> npt.NDArray[np.uint8]:
    """The uint8 array of an IDX file (http://yann.lecun.com/exdb/mnist: magic, big-endian sizes, bytes).

    Raises `DataError` when the file is missing, cut short, too long, or not `num_dimensions`-dimensional
    unsigned bytes.
    """
    try:
        with _opened(path) as stream:
            shape = _read_header(stream, num_dimensions, path)
            return _read_body(stream, shape, path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read: {error}", where=str(path)) from error


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _read_header(stream: BinaryIO, num_dimensions: int, path: Path) -> tuple[int, ...]:
    magic = stream.read(4)
    expected = bytes((0, 0, _UNSIGNED_BYTE, num_dimensions))
    if magic != expected:
        raise DataError(
            f"starts with bytes {magic.hex(' ') or '(none)'}, but an IDX file of unsigned bytes in "
            f"{num_dimensions} dimensions starts with {expected.hex(' ')}",
            where=str(path),
        )
    sizes = stream.read(4 * num_dimensions)
    if len(sizes) != 4 * num_dimensions:
        raise DataError("cut short inside its header", where=str(path))
    return tuple(int(size) for size in np.frombuffer(sizes, ">u4"))


def _read_body(stream: BinaryIO, shape: tuple[int, ...], path: Path) -> npt.NDArray[np.uint8]:
    num_bytes = math.prod(shape)
    if num_bytes > _MAX_BYTES:
        raise DataError(f"declares {shape}, more than {_MAX_BYTES} bytes", where=str(path))
    body = stream.read(num_bytes + 1)
    if len(body) != num_bytes:
        state = "cut short" if len(body) < num_bytes else "followed by more data"
        raise DataError(f"declares {shape} = {num_bytes} bytes but is {state}", where=str(path))
    return np.frombuffer(body, np.uint8).reshape(shape).copy()
