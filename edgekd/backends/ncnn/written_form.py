"""The two files of one model as edgekd writes them: ncnn's own, with a last line that vouches for both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from edgekd.core.digest import of_bytes
from edgekd.core.durable import replacing, sync

SEAL = "edgekd "
"""How the last line starts. ncnn stops reading after the layers that it was told of, and never sees it."""


def sealed(text: str, *, weights: bytes, metadata: Mapping[str, str]) -> bytes:
    """`text` (ncnn's, with its last line feed) and the line with digests of it and of the weights."""
    about = {
        "metadata": dict(metadata),
        "text_sha256": of_bytes(text.encode("ascii")),
        "weights_bytes": len(weights),
        "weights_sha256": of_bytes(weights),
    }
    return f"{text}{SEAL}{json.dumps(about, sort_keys=True)}\n".encode("ascii")


def write_pair(path: Path, param: bytes, weights: bytes) -> None:
    """Both files, so that whoever finds the .param finds the .bin of the same export beside it.

    Two names cannot change at once. So a .param that is there goes away first, the .bin takes its name, the
    .param last; a crash in between leaves no .param. Raises `StoreError`.
    """
    with replacing(path) as text_file, replacing(path.with_suffix(".bin")) as weights_file:
        for file, content in ((weights_file, weights), (text_file, param)):
            file.write_bytes(content)
            sync(file)
        path.unlink(missing_ok=True)
        sync(path.parent)
