"""What was measured beside a session, as text: numbers, and tables that are to be read and never judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from edgekd.core.measurement import Measurement
from edgekd.measure import end_to_end, layers, sweep
from edgekd.report.formatting import NAMES, milliseconds, percent, show, significant

_MOST_KERNELS = 12
Table = Mapping[str, Any]


def further_text(measurements: Sequence[Measurement], tables: Sequence[Table]) -> str:
    """One block a measurement and table, separated by empty lines."""
    blocks = [list(_measurement(one)) for one in measurements]
    blocks += [list(_TABLES[table["kind"]](table)) for table in tables]
    return "\n\n".join("\n".join(block) for block in blocks)


def _measurement(taken: Measurement) -> Iterator[str]:
    head = f"{NAMES[taken.quantity]} of {taken.subject.name} on {taken.target}: "
    if taken.value is None:
        yield head + f"not measured: {taken.not_measured}"
        return
    text = head + show(taken.quantity, taken.value)
    if taken.interval is not None:
        ends = (show(taken.quantity, end) for end in (taken.interval.low, taken.interval.high))
        text += f" ({' to '.join(ends)})"
    yield text
    if taken.quantity == "sustained_ratio":
        medians = [milliseconds(one) for one in taken.detail["p50_ms"]]
        yield f"  first window {medians[0]}, last {medians[-1]}, {len(medians)} in all"
    if taken.quantity == "throughput_ips":
        yield f"  in batches of {taken.detail['batch']}"
    if not taken.validity.valid:
        yield "  may not be judged:"
    yield from (f"  - {reason}" for reason in taken.validity.reasons)


def _layers(table: Table) -> Iterator[str]:
    rows = sorted(table["rows"], key=lambda row: -float(row["p50_us"]))
    times = ", ".join(dict.fromkeys(str(row["statistic"]) for row in rows))
    yield f"Kernels of {table['subject']} on {table['target']}, the longest first ({times}):"
    for row in rows[:_MOST_KERNELS]:
        time = f"{significant(row['p50_us'])} µs"
        yield f"  {time:>12} {percent(row['share']):>8}  {row['op']:<24} {row['name']}"
    if rest := rows[_MOST_KERNELS:]:
        yield f"  and {len(rest)} more, {percent(sum(row['share'] for row in rest))}"
    yield f"  {layers.CAVEAT}"


def _sweep(table: Table) -> Iterator[str]:
    yield f"Threads and cores of {table['subject']} on {table['target']}, the fastest first:"
    for row in table["rows"]:
        setting = sweep.Setting(row["threads"], tuple(row["cores"]) if row["cores"] else None)
        text = f"  {setting.name:<28} p50 {milliseconds(row['p50_ms'])}"
        if row["low"] is not None:
            text += f" ({milliseconds(row['low'])} to {milliseconds(row['high'])})"
        yield text
        yield from (f"      - {reason}" for reason in row["reasons"])
    yield f"  {sweep.CAVEAT}"


def _end_to_end(table: Table) -> Iterator[str]:
    yield f"From {table['images']} image files to answers, {table['subject']} on {table['target']}:"
    yield f"  {'total':<10} {_time(table['total'])}"
    for name, part in table["parts"].items():
        yield f"  {name:<10} {_time(part)}, {percent(part['share'])}"
    parity = table["parity"]
    yield (
        f"  resized there by {table['resizer']}: at most {parity['max_difference']} of 255 grey levels from "
        f"ours, {percent(parity['pixels_that_differ'])} of the values differ"
    )
    yield f"  same answers on {percent(parity['agreement'])} of {parity['n']} images"
    if parity["differing"]:
        yield f"  answered otherwise: {', '.join(parity['differing'])}"
    yield f"  {end_to_end.CAVEAT}"


def _time(found: Mapping[str, Any]) -> str:
    text = milliseconds(found["p50_ms"])
    if found["low"] is None:
        return text
    return f"{text} ({milliseconds(found['low'])} to {milliseconds(found['high'])})"


def _loadgen(table: Table) -> Iterator[str]:
    yield f"{table['subject']} on {table['target']}:"
    for found in table["scenarios"].values():
        parts = [] if found["valid"] else ["INVALID by LoadGen's own rules"]
        parts += [f"{key[:3]} {milliseconds(found[key])}" for key in ("p50_ms", "p90_ms") if found.get(key)]
        if "samples_per_s" in found:
            parts.append(f"{significant(found['samples_per_s'])} samples/s")
        yield f"  {found['title']}: {', '.join(parts)}"


_TABLES: dict[str, Callable[[Table], Iterator[str]]] = {
    "layers": _layers,
    "sweep": _sweep,
    "end_to_end": _end_to_end,
    "loadgen": _loadgen,
}
