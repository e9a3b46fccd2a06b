"""Reading arrays out of an .npz archive that nobody vouches for: no pickles, no surprises in size."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from edgekd.core.errors import DataError

_SUFFIX = ".npy"


def read_npz(path: Path, wanted: Iterable[str], max_bytes: int) -> dict[str, npt.NDArray[Any]]:
    """The arrays among `wanted` that the archive holds.

    Raises `DataError` for a missing, truncated or hostile archive: object arrays (pickles), a header that
    does not fit its member, or more than `max_bytes` of array data in all.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in wanted if name + _SUFFIX in archive.namelist()]
            size = sum(archive.getinfo(name + _SUFFIX).file_size for name in names)
            if size > max_bytes:
                raise DataError(
                    f"the arrays take {size >> 20} MB, more than the allowed {max_bytes >> 20}",
                    where=str(path),
                    fix="raise `memory_mb`",
                )
            return {name: _read_member(archive, name, path) for name in names}
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise DataError(f"not a readable .npz archive: {error}", where=str(path)) from error


def names_in(path: Path) -> tuple[str, ...]:
    """The names of the arrays in an archive, sorted; raises `DataError` when it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"not a readable .npz archive: {error}", where=str(path)) from error
    return tuple(sorted(name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX)))


def _read_member(archive: zipfile.ZipFile, name: str, path: Path) -> npt.NDArray[Any]:
    where = f"{path}:{name}"
    info = archive.getinfo(name + _SUFFIX)
    try:
        with archive.open(info) as stream:
            _check_header(stream, info.file_size, where)
        with archive.open(info) as stream:
            return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))
    except DataError:
        raise
    except Exception as error:
        # NumPy reads old headers with Python's tokenizer, so a hostile one raises almost anything.
        raise DataError(f"not a readable array: {error}", where=where) from error


def _check_header(stream: IO[bytes], file_size: int, where: str) -> None:
    """Refuse before allocating: a header may declare terabytes in a file of a hundred bytes."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    else:
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    if dtype.hasobject:
        raise DataError("holds Python objects (a pickle), which are never loaded", where=where)
    if any(side < 0 for side in shape) or stream.tell() + math.prod(shape) * dtype.itemsize != file_size:
        raise DataError(f"declares {dtype} {shape}, which does not fit its {file_size} bytes", where=where)
