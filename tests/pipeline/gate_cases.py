"""Measurements of one imagined artifact, for the gate's tests."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from edgekd.core.measurement import Interval, Measurement, Quantity, Subject, Validity
from edgekd.core.verdict import LimitResult, Verdict
from edgekd.pipeline.gate import GatePolicy, judge

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
FINAL = Subject(name="quantized", digest="f" * 64, precision="int8")
TEACHER = Subject(name="teacher", digest="7" * 64)
PAIRED = ("accuracy_drop", "new_errors", "speedup")


def measured(
    quantity: Quantity,
    value: float | None,
    low: float | None = None,
    high: float | None = None,
    **changes: Any,
) -> Measurement:
    """A valid measurement of the final artifact on `local`, with an interval when its ends are given."""
    interval = None
    if low is not None and high is not None:
        interval = Interval(low=low, high=high, method="test")
    fields: dict[str, Any] = {
        "quantity": quantity,
        "unit": "",
        "value": value,
        "interval": interval,
        "n": 1000,
        "subject": FINAL,
        "against": TEACHER if quantity in PAIRED else None,
        "target": "local",
        "taken_at": "2026-11-20T11:00:00+00:00",
        "validity": Validity(),
    }
    return Measurement(**(fields | changes))


def verdict_of(policy: dict[str, Any], *measurements: Measurement, **changes: Any) -> Verdict:
    settings: dict[str, Any] = {
        "final": FINAL.name,
        "final_digest": FINAL.digest,
        "targets": ["local"],
        "now": NOW,
        "against": {"teacher": TEACHER},
    }
    return judge(GatePolicy.model_validate(policy), measurements, **(settings | changes))


def result_of(policy: dict[str, Any], *measurements: Measurement, **changes: Any) -> LimitResult:
    """The only result of a policy with one limit on one target."""
    (result,) = verdict_of(policy, *measurements, **changes).results
    return result
