"""Latency distributions, from the raw samples the final session left.

`session/<target>/latency.json` (or `.json.gz`) is, as `edgekd.measure.runner` writes it,
`{"processes": [{"rows": {row: {"blocks_ns": [[...], ...]}}}]}`. What has another shape is taken for absent.
"""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.core.run_record import SESSION
from edgekd.report.facts import Distribution
from edgekd.report.reading import Source
from edgekd.report.waterfall import targets_of

NUM_BINS = 120
_TAIL = 99.0
_MOST_BYTES = 200_000_000
_NS_IN_MS = 1e6

Times = npt.NDArray[np.float64]


def distributions_of(source: Source) -> tuple[Distribution, ...]:
    """For each target and row with samples; rows that reused another's times are left out."""
    return tuple(one for target in targets_of(source) for one in _of_target(source, target))


def _of_target(source: Source, target: str) -> Iterator[Distribution]:
    document = _load(source.folder / SESSION / target)
    processes = list(_processes(document))
    rows = {row.name: row for row in source.record.rows}
    found = {name: _times(processes, name) for name in rows}
    found = {name: times for name, times in found.items() if times}
    if not found:
        return
    edges = _edges([time for times in found.values() for time in times])
    for position, (name, row) in enumerate(rows.items(), 1):
        if name in found:
            yield _distribution(target, position, row.title, found[name], edges)


def _distribution(
    target: str, position: int, title: str, processes: list[Times], edges: Times
) -> Distribution:
    times = np.concatenate(processes)
    counts, _ = np.histogram(times, bins=edges)
    return Distribution(
        target=target,
        position=position,
        title=title,
        n=len(times),
        processes=len(processes),
        p50_ms=float(np.percentile(times, 50)),
        p90_ms=float(np.percentile(times, 90)),
        edges_ms=tuple(float(edge) for edge in edges),
        bins=tuple(int(count) for count in counts),
    )


def _edges(all_times: list[Times]) -> Times:
    """Edges from the fastest sample of all to the slowest row's 99th percentile, even on a logarithm."""
    low = min(float(times.min()) for times in all_times) * 0.97
    high = max(float(np.percentile(times, _TAIL)) for times in all_times) * 1.03
    return np.asarray(np.geomspace(low, max(high, low * 1.05), NUM_BINS + 1))


def _load(folder: Path) -> Any:
    for name, opened in (("latency.json", _plain), ("latency.json.gz", _zipped)):
        path = folder / name
        if path.is_file():
            try:
                return json.loads(opened(path))
            except (OSError, EOFError, ValueError, RecursionError):
                return None
    return None


def _plain(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(_MOST_BYTES)


def _zipped(path: Path) -> bytes:
    with gzip.open(path) as stream:
        return stream.read(_MOST_BYTES)


def _processes(document: Any) -> Iterator[dict[str, Any]]:
    """What each process measured, by row."""
    processes = document.get("processes") if isinstance(document, dict) else None
    for process in processes if isinstance(processes, list) else []:
        rows = process.get("rows") if isinstance(process, dict) else None
        if isinstance(rows, dict):
            yield rows


def _times(processes: list[dict[str, Any]], name: str) -> list[Times]:
    """Milliseconds of one row, an array for each process that has any."""
    found = []
    for rows in processes:
        row = rows.get(name)
        blocks = row.get("blocks_ns") if isinstance(row, dict) else None
        numbers = [value for value in _flat(blocks) if math.isfinite(value) and value > 0]
        if numbers:
            found.append(np.asarray(numbers, np.float64) / _NS_IN_MS)
    return found


def _flat(value: Any) -> Iterator[float]:
    if isinstance(value, list):
        for part in value:
            yield from _flat(part)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)
