"""Numbers read as people write them."""

from __future__ import annotations

import math

import pytest

from edgekd.core.measurement import Quantity
from edgekd.report.formatting import moment, seconds, short, show


@pytest.mark.parametrize(
    ("quantity", "value", "text"),
    [
        ("accuracy", 0.9314, "93.1 %"),
        ("accuracy", 0.9934, "99.34 %"),
        ("accuracy", 0.99999, "99.99 %"),
        ("accuracy", 1.0, "100 %"),
        ("accuracy", 0.0, "0.0 %"),
        ("accuracy_drop", 0.0112, "1.12 pt"),
        ("accuracy_drop", -0.0112, "−1.12 pt"),
        ("accuracy_drop", -0.00001, "0.00 pt"),
        ("latency_p50_ms", 0.0421, "42.1 µs"),
        ("latency_p50_ms", 5.9, "5.90 ms"),
        ("latency_p90_ms", 1234.0, "1.23 s"),
        ("size_bytes", 512.0, "512 B"),
        ("size_bytes", 12e6, "12.0 MB"),
        ("memory_bytes", 1.5e9, "1.50 GB"),
        ("speedup", 2.0, "2.00×"),
        ("host_agreement", 0.995, "99.50 %"),
        ("cold_start_ms", 41.2, "41.2 ms"),
        ("throughput_ips", 2753.4, "2,753 images/s"),
        ("sustained_ratio", 1.83, "1.83×"),
        ("speedup", 1234.5, "1,234×"),
        ("accuracy", math.nan, "nan"),
    ],
)
def test_a_quantity_is_shown_in_its_unit(quantity: Quantity, value: float, text: str) -> None:
    assert show(quantity, value) == text


@pytest.mark.parametrize(
    ("text", "expected"), [("5.00 ms", "5 ms"), ("2.50×", "2.5×"), ("100 %", "100 %"), ("0.500", "0.5")]
)
def test_ticks_lose_trailing_zeros(text: str, expected: str) -> None:
    assert short(text) == expected


def test_durations_are_for_people() -> None:
    assert [seconds(4.25), seconds(61), seconds(3700)] == ["4.2 s", "1 min 01 s", "1 h 01 min"]


def test_times_are_shown_in_utc_and_other_text_is_left() -> None:
    assert moment("2026-11-20T12:02:44+01:00") == "2026-11-20 11:02 UTC"
    assert moment("soon") == "soon"
