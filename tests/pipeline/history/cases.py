"""Sessions of imagined artifacts, made in one line each, for the tests of the history."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekd.core.measurement import Interval, Quantity, Subject, Validity
from edgekd.measure import statistics
from edgekd.pipeline.history.change import Point
from edgekd.pipeline.history.record import Answers, Entry, Kept, packed

DEVICE: dict[str, Any] = {
    "cpu": "Cortex-A76",
    "governor": "performance",
    "kernel": "6.6.31",
    "runtime_onnx.onnxruntime": "1.31.0",
    "target.threads": 4,
}
N = 1000
NOISE = Validity(valid=False, reasons=("noise: the ratio's interval is +-4.0%, over 3%",))


def subject(letter: str, name: str = "quantized") -> Subject:
    """The artifact `letter`."""
    return Subject(name=name, digest=letter * 64, precision="int8")


TEACHER = subject("7", "teacher")


def answers(wrong: Sequence[int] = (), *, images: str = "i", n: int = N) -> Answers:
    """N images answered rightly but for those at `wrong`."""
    labels = np.zeros(n, np.int64)
    said = labels.copy()
    said[list(wrong)] = 1
    return packed(said, labels, images)


def session(
    letter: str, *kept: Kept, day: int = 1, others: Sequence[Subject] = (TEACHER,), **changes: Any
) -> Entry:
    """What the artifact `letter` and `others` gave on one day on `pi5`."""
    fields: dict[str, Any] = {
        "id": hashlib.sha256(f"{letter}{day}".encode()).hexdigest()[:16],
        "kind": "run",
        "recipe": "tiny",
        "final": "quantized",
        "target": "pi5",
        "taken_at": f"2026-11-{day:02d}T12:00:00+00:00",
        "subjects": {one.name: one for one in (subject(letter), *others)},
        "device": DEVICE,
        "protocol": {"name": "normal", "batch": 1, "block": 10},
        "measurements": kept,
    }
    return Entry(**(fields | changes))


def kept(
    quantity: Quantity,
    value: float | None,
    ends: tuple[float, float] | None = None,
    **changes: Any,
) -> Kept:
    interval = Interval(low=ends[0], high=ends[1], method="student-t-log-processes") if ends else None
    fields: dict[str, Any] = {
        "quantity": quantity,
        "unit": "",
        "value": value,
        "interval": interval,
        "n": N,
        "subject": "quantized",
    }
    return Kept(**(fields | changes))


def speedup(parts: Sequence[float], against: str = "teacher", **changes: Any) -> Kept:
    """Of `quantized` over another row, from the ratios of its processes."""
    value, interval = statistics.mean_of_logs(parts)
    given = {"interval": interval, "parts": tuple(parts), "processes": len(parts), "against": against}
    return kept("speedup", value, **(given | changes))


def p50(value: float = 1.0, **changes: Any) -> Kept:
    return kept("latency_p50_ms", value, (value * 0.99, value * 1.01), **changes)


def accuracy(wrong: int, n: int = N) -> Kept:
    right = n - wrong
    return kept("accuracy", right / n, n=n).model_copy(update={"interval": statistics.wilson(right, n)})


def point(entry: Entry, quantity: Quantity, row: str = "quantized") -> Point:
    """The measurement of a quantity in a session."""
    return Point(entry, next(k for k in entry.measurements if (k.quantity, k.subject) == (quantity, row)))


STEADY = (2.01, 2.00, 1.99, 2.005, 1.995)
"""Process-level ratios of about 2 that agree within half a per cent."""
