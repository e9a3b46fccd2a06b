"""Turns fresh processes with one graph each into its peak memory and the time until its first answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekd.measure import statistics
from edgekd.measure.estimate import Estimate
from edgekd.measure.protocol import MIN_PROCESSES

_PAGE_BYTES = 4096
_STAGES = ("import", "load", "run")
_COLD = ("import", "load", "first_run")
Process = Mapping[str, Mapping[str, Any]]
"""What the agent's memory mode returned: kB after `import`, `load` and `run`; `ms` of the first steps."""


def peak(processes: Sequence[Process], baselines: Sequence[Process]) -> Estimate:
    """Mean VmHWM in bytes after running, Student-t interval over processes, no narrower than one page.

    `attributable_bytes` is what remains beyond the same process with a graph of one node.
    """
    if not all("VmHWM" in process["run"] for process in processes):
        return Estimate(None, None, 0, missing="the kernel reports no VmHWM")
    peaks = [process["run"]["VmHWM"] * 1024 for process in processes]
    value = sum(peaks) / len(peaks)
    _, interval = statistics.mean_of_logs(peaks)
    if interval is not None:
        ends = {
            "low": min(interval.low, value - _PAGE_BYTES),
            "high": max(interval.high, value + _PAGE_BYTES),
        }
        interval = interval.model_copy(update=ends)
    runtime = [process["run"]["VmHWM"] * 1024 for process in baselines]
    detail: dict[str, Any] = {
        "attributable_bytes": value - sum(runtime) / len(runtime),
        "baseline_bytes": sum(runtime) / len(runtime),
        "process_bytes": peaks,
        "stages_kb": [{stage: process[stage] for stage in _STAGES} for process in processes],
    }
    return Estimate(value, interval, len(peaks), detail)


def cold_start(processes: Sequence[Process]) -> Estimate:
    """Milliseconds from asking the runtime for the graph to its first answer: loading and one run.

    Geometric mean over fresh processes, Student-t interval. Importing the runtime is not part of it, and the
    file was read shortly before: the disk is not either.
    """
    parts = {name: [float(process["ms"][name]) for process in processes] for name in _COLD}
    totals = [load + first for load, first in zip(parts["load"], parts["first_run"], strict=True)]
    value, interval = statistics.mean_of_logs(totals)
    count = len(processes)
    few = () if count >= MIN_PROCESSES else (f"{count} processes, judging needs {MIN_PROCESSES}",)
    detail = {"process_ms": totals, **{f"{name}_ms": values for name, values in parts.items()}}
    return Estimate(value, interval, count, detail, few)
