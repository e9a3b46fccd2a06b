"""What happens in a run, said once: written to the run's events file and shown to whoever watches."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgekd.core.durable import disk_error

Emit = Callable[[Mapping[str, Any]], None]

EPHEMERAL = frozenset({"progress"})
"""Events that are shown but not kept."""


def now() -> str:
    """UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).replace(microsecond=0).isoformat()


class EventLog:
    """Appends events to a file as JSON lines and passes each on to the listeners."""

    def __init__(self, path: Path, listeners: Sequence[Emit] = ()) -> None:
        self.path = path
        self._listeners = tuple(listeners)

    def __call__(self, event: Mapping[str, Any]) -> None:
        if event["event"] not in EPHEMERAL:
            self._append({"at": now(), **event})
        for listener in self._listeners:
            listener(event)

    def bound(self, **fields: Any) -> Emit:
        """An emit that adds `fields` to every event."""
        return lambda event: self({**fields, **event})

    def _append(self, event: Mapping[str, Any]) -> None:
        line = json.dumps(event, allow_nan=True) + "\n"
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            raise disk_error(self.path, error) from error
