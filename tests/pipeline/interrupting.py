"""Ends a session between two questions to the agent, as Ctrl-C or a kill would, and counts what was asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from edgekd.measure.device import Device


class Interrupted(Exception):
    """Stands for Ctrl-C or a kill: nothing catches it."""


def counting(patch: pytest.MonkeyPatch, asked: Counter[str], stop_at: int | None = None) -> None:
    """Count what the agent is asked, and stop before the question `stop_at`."""
    call: Callable[..., Any] = Device.call

    def counted(self: Device, mode: str, *arguments: Any, **fields: Any) -> Any:
        if mode != "facts":
            if sum(asked.values()) == stop_at:
                raise Interrupted
            asked[mode] += 1
        return call(self, mode, *arguments, **fields)

    patch.setattr(Device, "call", counted)
