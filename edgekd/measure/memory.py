"""Turns the peak memory of fresh processes into what the artifact needs, in all and beyond the runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekd.measure import statistics
from edgekd.measure.estimate import Estimate

_PAGE_BYTES = 4096
Process = Mapping[str, Mapping[str, int]]
"""What the agent's memory mode returned: kB after `import`, `load` and `run`."""


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
        "stages_kb": [dict(process) for process in processes],
    }
    return Estimate(value, interval, len(peaks), detail)
