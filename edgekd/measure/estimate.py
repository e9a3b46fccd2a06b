"""A number on its way to becoming a measurement: value, interval, and what speaks against it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from edgekd.core.measurement import Interval


@dataclass(frozen=True)
class Estimate:
    """`problems` make it invalid; `notes` are to be kept in mind; `missing` says why there is no value."""

    value: float | None
    interval: Interval | None
    n: int
    detail: dict[str, Any] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    missing: str | None = None
