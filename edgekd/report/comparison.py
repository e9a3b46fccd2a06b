"""A comparison of models on a terminal: one answer a pair, what would decide the open ones, and the times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from edgekd.core.measurement import Interval, Measurement, Quantity
from edgekd.measure.compare import Comparison, Design
from edgekd.report.formatting import milliseconds

_INDENT = "    "
_TIMES: tuple[Quantity, ...] = ("latency_p50_ms", "latency_p90_ms")


def comparison_text(
    comparisons: Sequence[Comparison],
    measurements: Sequence[Measurement],
    *,
    design: Design,
    device: Mapping[str, Any],
    target: str,
    profile: str,
    cap: int,
) -> str:
    """What a bench found, in lines.

    `measurements` hold the p50 and p90 of every model; `cap` is what `--until-decided` goes up to.
    """
    count = comparisons[0].processes
    threads = (device.get("target") or {}).get("threads", 1)
    cpu = device.get("cpu") or device.get("machine") or "unknown processor"
    lines = [
        f"on {target} ({cpu}, {threads} thread{'s' if threads != 1 else ''}), "
        f"profile {profile}, {count} fresh processes",
        _certainty(design),
        "",
    ]
    for one in comparisons:
        lines += [*answer_lines(one, design, cap), ""]
    lines += _times(measurements)
    return "\n".join(lines) + "\n"


def answer_lines(one: Comparison, design: Design, cap: int) -> list[str]:
    """`b against a: faster, 1.153x (1.149x to 1.158x)`, the ratios beside it, and what would decide."""
    tail = f": {'; '.join(one.why)}" if one.why else ""
    head = f"{one.name} against {one.against}: {one.answer}, {_ratio(one.ratio, one.interval)}{tail}"
    p50, p90 = (_plain_ratio(one.p50_ratio), _plain_ratio(one.p90_ratio))
    lines = [head, f"{_INDENT}p50 {p50}, p90 {p90}"]
    if not one.settled:
        lines.append(f"{_INDENT}to decide: {_what_decides(one, design, cap)}")
    return lines


def _certainty(design: Design) -> str:
    looks, pairs = len(design.looks), design.pairs
    if looks == pairs == 1:
        return "95 % intervals over processes; a difference below 1 % is never claimed"
    over = [f"{pairs} pairs"] * (pairs > 1) + [f"{looks} looks"] * (looks > 1)
    return (
        f"{design.level * 100:.4g} % intervals over processes, so that all of {' and '.join(over)} together "
        "hold at 95 %; a difference below 1 % is never claimed"
    )


def _what_decides(one: Comparison, design: Design, cap: int) -> str:
    if one.needed is None:
        return "no practical number of processes, if ratio and spread stay as they are"
    text = f"about {one.needed} processes in all, if ratio and spread stay as they are"
    if len(design.looks) > 1:
        return f"{text}; this session stops at {design.most}"
    grows = f", or `--until-decided` (up to {cap})" if one.needed <= cap else ""
    return f"{text}: `--processes {one.needed}`{grows}"


def _ratio(value: float, interval: Interval | None) -> str:
    if interval is None:
        return f"{value:.4g}x"
    return f"{_digits(value)}x ({_digits(interval.low)}x to {_digits(interval.high)}x)"


def _plain_ratio(found: Mapping[str, float | None]) -> str:
    value, low, high = found["value"], found["low"], found["high"]
    if value is None:
        return "not known"
    return f"{_digits(value)}x" + (f" ({_digits(low)}x to {_digits(high)}x)" if low and high else "")


def _digits(value: float) -> str:
    """Tenths of a per cent below ten times, three digits above."""
    return f"{value:.3f}" if value < 10 else f"{value:.3g}"


def _times(measurements: Iterable[Measurement]) -> list[str]:
    """A line a model: p50 and p90 with their intervals; below it why they may not be judged."""
    rows: dict[str, dict[str, Measurement]] = {}
    for one in measurements:
        if one.against is None:
            rows.setdefault(one.subject.name, {})[one.quantity] = one
    cells = {name: [name, *(_time(found[key]) for key in _TIMES)] for name, found in rows.items()}
    table = [["", "p50", "p90"], *cells.values()]
    widths = [max(len(row[column]) for row in table) for column in range(3)]
    lines = [_aligned(table[0], widths)]
    for name, found in rows.items():
        lines.append(_aligned(cells[name], widths))
        lines += [f"{_INDENT}{line}" for line in _remarks(*(found[key] for key in _TIMES))]
    return lines


def _remarks(*found: Measurement) -> list[str]:
    reasons = dict.fromkeys(reason for one in found for reason in one.validity.reasons)
    word = "" if all(one.validity.valid for one in found) else "not fit to judge: "
    return [word + "; ".join(reasons)] if reasons else []


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _time(one: Measurement) -> str:
    if one.value is None:
        return f"none ({one.not_measured})"
    if one.interval is None:
        return milliseconds(one.value)
    low, high = milliseconds(one.interval.low), milliseconds(one.interval.high)
    return f"{milliseconds(one.value)} ({low} to {high})"
