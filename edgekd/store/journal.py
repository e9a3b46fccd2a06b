"""A step's memory of finished pieces: what was computed before a kill is read back, not done again."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgekd.core.durable import disk_error


class Journal:
    """`journal(key, compute)` returns the remembered value of `key`, or computes and remembers it.

    Values are plain JSON data. A line cut short by a kill is ignored, so its piece is computed again.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._values = _read(path)

    def __call__(self, key: str, compute: Callable[[], Any]) -> Any:
        if key not in self._values:
            self._remember(key, compute())
        return self._values[key]

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def _remember(self, key: str, value: Any) -> None:
        line = json.dumps({"key": key, "value": value}, allow_nan=False) + "\n"
        try:
            with self.path.open("ab") as stream:
                # A leading newline ends a line that a kill cut short.
                stream.write(b"\n" + line.encode())
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise disk_error(self.path, error) from error
        self._values[key] = json.loads(line)["value"]


def _read(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if not path.exists():
        return values
    for line in path.read_bytes().split(b"\n"):
        try:
            record = json.loads(line)
            values[record["key"]] = record["value"]
        except (ValueError, KeyError, TypeError):
            continue
    return values
