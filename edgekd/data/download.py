"""Fetching one file from the network, checked before it takes its name."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from pathlib import Path

from edgekd.core.digest import of_file
from edgekd.core.durable import replacing
from edgekd.core.errors import DataError

_TIMEOUT_S = 30
_NETWORK_ERRORS = (
    urllib.error.URLError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
    ValueError,
)
_CHUNK_BYTES = 1 << 20


def download(url: str, path: Path, *, sha256: str, size_bytes: int) -> None:
    """Write what `url` holds to `path`; nothing is left behind when it is not the expected content.

    Raises `DataError` for a network failure, another size or another digest.
    """
    with replacing(path) as temporary:
        _fetch(url, temporary, size_bytes)
        found = temporary.stat().st_size
        if found != size_bytes:
            raise DataError(f"got {found} bytes instead of {size_bytes}", where=url, fix="try again")
        if of_file(temporary) != sha256:
            raise DataError(
                "the content is not the published one (sha256 differs)",
                where=url,
                fix=f"fetch {path.name} by other means and put it into {path.parent}",
            )


def _fetch(url: str, path: Path, size_bytes: int) -> None:
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response, path.open("wb") as stream:
            while stream.tell() <= size_bytes and (chunk := response.read(_CHUNK_BYTES)):
                stream.write(chunk)
    except _NETWORK_ERRORS as error:
        raise DataError(
            f"cannot download: {error}", where=url, fix=f"put {path.name} into {path.parent} by hand"
        ) from error
