"""Numbers as people read them: units, digits and signs."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from edgekd.core.measurement import Quantity

MINUS = "\N{MINUS SIGN}"
NAMES: dict[str, str] = {
    "accuracy": "Accuracy",
    "accuracy_drop": "Accuracy drop",
    "agreement": "Agreement",
    "host_agreement": "Agreement with the host",
    "macro_recall": "Macro recall",
    "worst_class_recall": "Worst class recall",
    "new_errors": "New errors",
    "latency_p50_ms": "Latency p50",
    "latency_p90_ms": "Latency p90",
    "speedup": "Speed-up",
    "throughput_ips": "Throughput",
    "cold_start_ms": "Cold start",
    "sustained_ratio": "Sustained slow-down",
    "size_bytes": "Size",
    "memory_bytes": "Peak memory",
    "energy_mj": "Energy",
}


def show(quantity: Quantity, value: float) -> str:
    """One value of a quantity with its unit; what is not finite is said as it is."""
    if not math.isfinite(value):
        return str(value)
    if quantity == "accuracy_drop":
        return points(value)
    if quantity in ("latency_p50_ms", "latency_p90_ms", "cold_start_ms"):
        return milliseconds(value)
    if quantity in ("size_bytes", "memory_bytes"):
        return size(value)
    if quantity in ("speedup", "sustained_ratio"):
        return ratio(value)
    if quantity == "throughput_ips":
        return f"{significant(value)} images/s"
    if quantity == "energy_mj":
        return f"{significant(value)} mJ"
    return percent(value)


def percent(fraction: float) -> str:
    """A fraction as a percentage with one decimal, two above 99 %; never rounded up to 100 %."""
    value = fraction * 100
    digits = 2 if value > 99 else 1
    text = f"{value:.{digits}f}"
    if value < 100 and float(text) >= 100:
        text = "99.99"
    return f"{'100' if value == 100 else signed_text(text)} %"


def points(fraction: float, *, plus: bool = False) -> str:
    """A difference of fractions in percentage points."""
    text = f"{fraction * 100:{'+' if plus else ''}.2f}"
    return f"{signed_text(text)} pt"


def signed_text(text: str) -> str:
    """A true minus sign, and none before zero."""
    if text.lstrip("+-").strip("0.") == "":
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def milliseconds(value: float) -> str:
    """Milliseconds, or the unit beside it in which the number is short."""
    if abs(value) >= 1000:
        return f"{significant(value / 1000)} s"
    if 0 < abs(value) < 0.1:
        return f"{significant(value * 1000)} µs"
    return f"{significant(value)} ms"


def size(value: float) -> str:
    """Bytes in decimal units (1 MB is 1,000,000 B)."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if abs(value) >= factor:
            return f"{significant(value / factor)} {unit}"
    return f"{value:g} B"


def ratio(value: float) -> str:
    return f"{significant(value)}×"


def seconds(value: float) -> str:
    """A duration for people."""
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def significant(value: float, digits: int = 3) -> str:
    """Three significant digits without an exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return signed_text(f"{value:,.{min(decimals, 9)}f}")


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 limit`, `2 limits`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def short(text: str) -> str:
    """A number's text without trailing zeros, for the ticks of an axis: `5.00 ms` is `5 ms`."""
    number, space, unit = text.partition(" ")
    sign = "×" if number.endswith("×") else ""
    number = number.removesuffix("×")
    if "." in number:
        number = number.rstrip("0").rstrip(".")
    return number + sign + space + unit


def moment(text: str) -> str:
    """An ISO 8601 time as `2026-11-20 11:02 UTC`; other text as it is."""
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return text
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC") if when.tzinfo else text


def sentence_case(text: str) -> str:
    """The first letter as a capital, the rest as it is; a file's name stays as it is."""
    first = text.partition(" ")[0]
    return text if "." in first.rstrip(".") else text[:1].upper() + text[1:]
