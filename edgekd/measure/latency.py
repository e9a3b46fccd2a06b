"""Turns the raw samples of interleaved processes into latencies, speed-ups and their validity.

Legend: P processes, R rounds, B runs per block. A process is what the agent's latency mode returned; its
samples of one graph are `[R, B]` nanoseconds, and row r of two graphs was timed in the same round.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgekd.core.measurement import Interval
from edgekd.measure import statistics
from edgekd.measure.disturbance import FOREIGN_MAX, cooling, foreign_load
from edgekd.measure.estimate import Estimate
from edgekd.measure.protocol import MIN_PROCESSES, Protocol

Process = Mapping[str, Any]
Samples = npt.NDArray[np.float64]

SPREAD_MAX = 0.10
"""Of per-process p50: standard deviation of the logarithm."""
P50_OVER_MIN_MAX = 1.5
DRIFT_MAX = 1.05
STEAL_MAX = 0.02
CLOCK_CHANGE_MAX = 0.05
HALF_WIDTH_MAX = 0.03
HALF_WIDTH_SHARE = 0.10
FLATTERY_MAX = 1.25
"""How far the ratio of block minima may exceed that of the medians, by its interval's lower end."""
LEAST_SPEEDUP = 0.01
"""Differences below it are not claimed."""
_VALUE = re.compile(r" is (?=[+\d-])")
"""Where a problem's number begins."""
_STEAL = 7
"""Position of stolen ticks in a line of /proc/stat."""


def samples(process: Process, name: str) -> Samples:
    """`[R, B]` milliseconds of the graph `name`."""
    return np.asarray(process["graphs"][name]["blocks_ns"], np.float64) / 1e6


def p50(
    processes: Sequence[Process], name: str, protocol: Protocol, *, level: float = statistics.LEVEL
) -> Estimate:
    """Geometric mean over processes of the median in ms, Student-t interval over processes."""
    value, interval = statistics.mean_of_logs(process_percentiles(processes, name, 0.5), level=level)
    problems = (*shortage(processes, name, protocol), *noise(processes, name))
    detail = {**describe(processes, name), **computed(processes, name)}
    return Estimate(value, interval, detail["n"], detail, problems, _unsettled(processes, name))


def computed(processes: Sequence[Process], name: str) -> dict[str, Any]:
    """The computation alone, where the runtime tells: `compute_p50_ms`, the geometric mean over processes of
    the median, and `process_compute_p50_ms`. Host to host is what the latencies are."""
    told = [process["graphs"][name].get("compute_ms") for process in processes]
    medians = [float(np.median(times)) for times in told if times]
    if not medians or len(medians) < len(processes) or min(medians) <= 0:
        return {}
    value, _ = statistics.mean_of_logs(medians)
    return {"compute_p50_ms": value, "process_compute_p50_ms": medians}


def p90(
    processes: Sequence[Process], name: str, protocol: Protocol, *, level: float = statistics.LEVEL
) -> Estimate:
    """MLPerf's early-stopping estimate in ms over all runs.

    Its interval is Student-t over the processes' own p90, widened to hold the estimate.
    """
    runs = np.sort(_pooled(processes, name)).tolist()
    found = statistics.early_stopping_percentile(runs, 0.9)
    if found.value is None:
        reason = f"{found.n} runs; the 90th percentile needs {found.needed}"
        return Estimate(None, None, found.n, missing=reason)
    _, interval = statistics.mean_of_logs(process_percentiles(processes, name, 0.9), level=level)
    if interval is not None:
        ends = {"low": min(interval.low, found.value), "high": max(interval.high, found.value)}
        interval = interval.model_copy(update=ends)
    problems = (*shortage(processes, name, protocol), *noise(processes, name))
    detail = {"dropped": found.dropped, "process_p90_ms": process_percentiles(processes, name, 0.9)}
    return Estimate(found.value, interval, found.n, detail, problems, _unsettled(processes, name))


def speedup(
    processes: Sequence[Process],
    name: str,
    against: str,
    protocol: Protocol,
    *,
    level: float = statistics.LEVEL,
) -> Estimate:
    """Time of `against` / time of `name`: median over rounds of the ratio of the two blocks' minima, per
    process; then geometric mean and Student-t interval over processes. What `claim()` makes of it is in the
    detail, as `faster` and `slower`.
    """
    ratios = [_block_ratio(process, name, against) for process in processes]
    value, interval = statistics.mean_of_logs(ratios, level=level)
    problems = list(_too_few(processes, protocol))
    claimed = claim(value, interval) if interval else None
    detail: dict[str, Any] = {
        "process_ratios": ratios,
        "faster": claimed == "faster",
        "slower": claimed == "slower",
    }
    if (usual := statistics.mean_of_logs(ratios)[1]) is not None:
        # Noise is the same however sure one wants to be: validity looks at the interval of the usual level.
        detail["half_width"] = half_width = (usual.high - usual.low) / (2 * value)
        widest = widest_half_width(value)
        if half_width > widest:
            problems.append(f"noise: the ratio's interval is +-{half_width:.1%}, over {widest:.1%}")
    for key, fraction in (("p50_ratio", 0.5), ("p90_ratio", 0.9)):
        detail[key] = _percentile_ratio(processes, name, against, fraction, level)
    problems += _flattered(processes, name, against, ratios)
    return Estimate(value, interval, len(processes), detail, tuple(problems))


def _flattered(
    processes: Sequence[Process], name: str, against: str, ratios: Sequence[float]
) -> tuple[str, ...]:
    """Block minima show a graph's fastest inputs; where half of its inputs take longer, they flatter it."""
    medians = _process_ratios(processes, name, against, 0.5)
    excess, interval = statistics.mean_of_logs([a / b for a, b in zip(ratios, medians, strict=True)])
    if interval is None or interval.low <= FLATTERY_MAX:
        return ()
    return (
        f"noise or inputs: by its fastest runs the ratio is {excess:.3g} times that of the medians, "
        f"over {FLATTERY_MAX:g}",
    )


def claim(ratio: float, interval: Interval) -> Literal["faster", "slower"] | None:
    """What a speed-up shows: only if its interval excludes 1 and the difference is at least 1 %."""
    if interval.low > 1 and ratio >= 1 + LEAST_SPEEDUP:
        return "faster"
    if interval.high < 1 and ratio <= 1 - LEAST_SPEEDUP:
        return "slower"
    return None


def widest_half_width(ratio: float) -> float:
    """How wide a ratio's interval may be, relative to it: 3 %, or 10 % of its distance from 1 (a logarithm).

    A ratio of 1.1 needs +-3 % to mean anything; one of 3.5 moves by more than that between two states of a
    shared host and is no less a speed-up (docs/decisions/0016).
    """
    return max(HALF_WIDTH_MAX, HALF_WIDTH_SHARE * abs(math.log(ratio)))


def describe(processes: Sequence[Process], name: str) -> dict[str, Any]:
    """The statistics beside the headline, in ms; a percentile that n does not support is None."""
    runs = np.sort(_pooled(processes, name))
    mean, sd = float(runs.mean()), float(runs.std(ddof=1))
    medians = process_percentiles(processes, name, 0.5)
    graphs = [process["graphs"][name] for process in processes]
    return {
        "n": len(runs),
        "mean": mean,
        "sd": sd,
        "cv": sd / mean,
        "min": float(runs[0]),
        "p10": float(np.percentile(runs, 10)),
        "p50": float(np.percentile(runs, 50)),
        "p90": statistics.early_stopping_percentile(runs.tolist(), 0.9).value,
        "p99": statistics.early_stopping_percentile(runs.tolist(), 0.99).value,
        "max": float(runs[-1]),
        "process_p50_ms": medians,
        "spread": spread(processes, name),
        "drift": drift(processes, name),
        "load_ms": [graph["load_ms"] for graph in graphs],
        "first_run_ms": [graph["first_run_ms"] for graph in graphs],
        "warm_up": [graph["warm_up"] for graph in graphs],
        "timed_s": float(runs.sum()) / 1e3,
        "num_inputs": graphs[0]["num_inputs"],
    }


def process_percentiles(processes: Sequence[Process], name: str, fraction: float) -> list[float]:
    """One percentile in ms per process."""
    return [float(np.percentile(samples(process, name), 100 * fraction)) for process in processes]


def spread(processes: Sequence[Process], name: str) -> float:
    """Between-process standard deviation of the logarithm of p50: about the coefficient of variation."""
    return statistics.sd([math.log(value) for value in process_percentiles(processes, name, 0.5)])


def drift(processes: Sequence[Process], name: str) -> float:
    """Median over processes of: median of the last 30 % of runs / median of the first 30 %."""
    ratios = []
    for process in processes:
        runs = samples(process, name).ravel()
        part = max(1, int(len(runs) * 0.3))
        ratios.append(float(np.median(runs[-part:]) / np.median(runs[:part])))
    return float(np.median(ratios))


def noise(processes: Sequence[Process], name: str) -> tuple[str, ...]:
    """What makes the absolute latency of `name` unfit to judge; a repetition may cure it."""
    found = describe(processes, name)
    over_min = float(np.median(found["process_p50_ms"])) / found["min"]
    checks = (
        ("p50 spread between processes", found["spread"], SPREAD_MAX),
        ("p50 / minimum", over_min, P50_OVER_MIN_MAX),
        ("drift within a process", found["drift"], DRIFT_MAX),
        ("time stolen by other guests", steal(processes), STEAL_MAX),
        ("clock change under load", clock_change(processes), CLOCK_CHANGE_MAX),
        ("share of the cores taken by other processes", foreign_load(processes), FOREIGN_MAX),
    )
    reasons = [f"noise: {what} is {value:.3g}, over {most:g}" for what, value, most in checks if value > most]
    return (*reasons, *throttling(processes))


def in_short(reasons: Sequence[str]) -> str:
    """`p50 spread between processes (8 times), the ratio's interval`, of reasons like `WHO: PROBLEM`."""
    problems = (reason.partition(": ")[2].removeprefix("noise: ") for reason in reasons)
    kinds = Counter(_VALUE.split(problem, maxsplit=1)[0] for problem in problems)
    return ", ".join(kind if count == 1 else f"{kind} ({count} times)" for kind, count in kinds.items())


def shortage(processes: Sequence[Process], name: str, protocol: Protocol) -> tuple[str, ...]:
    """What the protocol asked for and did not get; repetition pools, so more is never too little."""
    count = sum(samples(process, name).size for process in processes)
    span_s = sum(process["span_s"] for process in processes)
    problems = list(_too_few(processes, protocol))
    if count < protocol.min_count:
        problems.append(f"too few samples: {count} of {protocol.min_count}")
    if span_s < protocol.min_duration_s:
        problems.append(f"too short: {span_s:.2f} s of {protocol.min_duration_s:g} s")
    return tuple(problems)


def steal(processes: Sequence[Process]) -> float:
    """Share of the processor ticks, while timing, that the hypervisor gave to somebody else."""
    total = stolen = 0
    for process in processes:
        before, after = (process["state"][when]["ticks"] for when in ("before", "after"))
        if before and after and len(before) > _STEAL:
            total += sum(after) - sum(before)
            stolen += after[_STEAL] - before[_STEAL]
    return stolen / total if total > 0 else 0.0


def clock_change(processes: Sequence[Process]) -> float:
    """Largest relative change of one core's clock within one process while it was timing."""
    changes = [0.0]
    for process in processes:
        state = process["state"]
        seen = [state["before"]["clocks_khz"], *state["clocks_khz"], state["after"]["clocks_khz"]]
        for core in seen[0]:
            clocks = [one[core] for one in seen if one.get(core)]
            changes.append(1 - min(clocks) / max(clocks) if clocks else 0.0)
    return max(changes)


def throttling(processes: Sequence[Process]) -> tuple[str, ...]:
    """Counters and flags by which a device says that it slowed itself down."""
    reasons = []
    for process in processes:
        before, after = process["state"]["before"], process["state"]["after"]
        if (after["throttle_count"] or 0) > (before["throttle_count"] or 0):
            reasons.append("throttled: the core throttle counter rose")
        if _pi_flags(after) & 0xF or _pi_flags(after) & ~_pi_flags(before):
            reasons.append(f"throttled: get_throttled says {after['pi_throttled']}")
        reasons += cooling([before, after])
    return tuple(dict.fromkeys(reasons))


def _pi_flags(state: Mapping[str, Any]) -> int:
    """Raspberry Pi firmware: bits 0-3 are true now, 16-19 have been true since boot; both as hexadecimal."""
    try:
        return int(state["pi_throttled"] or "0", 16)
    except ValueError:
        return 0


def _too_few(processes: Sequence[Process], protocol: Protocol) -> tuple[str, ...]:
    if protocol.weakness is not None:
        return (protocol.weakness,)
    if len(processes) < MIN_PROCESSES:
        return (f"{len(processes)} processes, judging needs {MIN_PROCESSES}",)
    return ()


def _unsettled(processes: Sequence[Process], name: str) -> tuple[str, ...]:
    count = sum(not process["graphs"][name]["warm_up"]["settled"] for process in processes)
    return (f"warm-up had not settled in {count} of {len(processes)} processes",) if count else ()


def _pooled(processes: Sequence[Process], name: str) -> Samples:
    return np.concatenate([samples(process, name).ravel() for process in processes])


def _block_ratio(process: Process, name: str, against: str) -> float:
    fastest, baseline = (samples(process, graph).min(axis=1) for graph in (name, against))
    return float(np.median(baseline / fastest))


def _percentile_ratio(
    processes: Sequence[Process], name: str, against: str, fraction: float, level: float
) -> dict[str, float | None]:
    ratios = _process_ratios(processes, name, against, fraction)
    value, interval = statistics.mean_of_logs(ratios, level=level)
    ends = (interval.low, interval.high) if interval else (None, None)
    return {"value": value, "low": ends[0], "high": ends[1]}


def _process_ratios(processes: Sequence[Process], name: str, against: str, fraction: float) -> list[float]:
    """Percentile of `against` / percentile of `name`, per process."""
    mine, theirs = (process_percentiles(processes, graph, fraction) for graph in (name, against))
    return [b / a for a, b in zip(mine, theirs, strict=True)]
