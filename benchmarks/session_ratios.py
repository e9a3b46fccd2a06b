"""How far does a paired speed-up move between two sessions in which nothing has changed?

    python benchmarks/session_ratios.py .edgekd/runs/quickstart/ID --sessions 30 --every 75
    python benchmarks/session_ratios.py --table           # render what was measured as Markdown

Three graphs of a run (teacher, distilled, quantized) are timed interleaved in five fresh processes, again and
again. `edgekd history` compares artifacts of two sessions by such ratios; any change that it would claim
between two of these sessions is a false one. One row per session is appended to
results/session_ratios.jsonl; what is there stays, and further sessions are added to it.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evidence import append, rows

from edgekd.core.run_record import RunRecord
from edgekd.core.seed import derive
from edgekd.measure import latency
from edgekd.measure.across_sessions import LogMean, change_of_ratio
from edgekd.measure.device import open_device
from edgekd.measure.protocol import PROTOCOLS
from edgekd.measure.statistics import mean_of_logs, sd
from edgekd.pipeline.run_folder import read_record
from edgekd.targets.local import LocalTarget

NAME = "session_ratios"
GRAPHS = ("teacher", "distilled", "quantized")
PAIRS = (("distilled", "teacher"), ("quantized", "teacher"), ("quantized", "distilled"))
PROTOCOL = PROTOCOLS["rapid"]
NUM_PROCESSES = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", help="folder of a finished quickstart")
    parser.add_argument("--sessions", type=int, default=30)
    parser.add_argument("--every", type=float, default=75.0, help="seconds from one start to the next")
    parser.add_argument("--table", action="store_true")
    chosen = parser.parse_args()
    if chosen.table or chosen.run is None:
        print(table(rows(NAME)))
        return
    for number in range(chosen.sessions):
        started = time.monotonic()
        append(NAME, session(graphs(chosen.run, read_record(chosen.run)), number))
        time.sleep(max(0.0, chosen.every - (time.monotonic() - started)))


def graphs(folder: Path, record: RunRecord) -> dict[str, Path]:
    steps = {step.name: step for step in record.steps}
    graph_of = {row.name: steps[row.graph_step].folder for row in record.rows}
    return {name: folder / str(graph_of[name]) / "model.onnx" for name in GRAPHS}


def session(paths: dict[str, Path], number: int) -> dict[str, Any]:
    with open_device(LocalTarget(name="local", kind="local")) as device:
        entries = [device.artifact(name, path) for name, path in paths.items()]
        seeds = [derive(number, "session", process) % 2**32 for process in range(NUM_PROCESSES)]
        taken = [device.call("latency", entries, seed=seed, **PROTOCOL.request())["result"] for seed in seeds]
    ratios = {
        f"{one}/{other}": latency.speedup(taken, one, other, PROTOCOL).detail["process_ratios"]
        for one, other in PAIRS
    }
    p50 = {name: latency.process_percentiles(taken, name, 0.5) for name in paths}
    return {"load": taken[0]["state"]["before"]["load"], "ratios": ratios, "p50_ms": p50}


def table(found: Sequence[dict[str, Any]]) -> str:
    load = _span(row["load"] for row in found)
    lines = [
        f"{len(found)} sessions, {found[0]['at']} to {found[-1]['at']}, load {load}",
        "",
        "| speed-up | sessions valid | their means | sd of the means | expected of the processes "
        "| false changes by Welch | as `edgekd history` |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_line(name, [row["ratios"][name] for row in found]) for name in found[0]["ratios"]]
    for name in GRAPHS:
        medians = [mean_of_logs(row["p50_ms"][name])[0] for row in found]
        lines.append(f"\np50 of {name}: {_span(medians)} ms")
    return "\n".join(lines)


def _line(name: str, sessions: Sequence[Sequence[float]]) -> str:
    valid = [LogMean.of(ratios) for ratios in sessions if _is_valid(ratios)]
    expected = math.sqrt(math.fsum(one.variance for one in valid) / len(valid))
    pairs = list(itertools.combinations(valid, 2))
    welch = sum(_claimed(*pair, tau=0.0) for pair in pairs)
    ours = sum(_claimed(*pair, tau=None) for pair in pairs)
    means = _span(math.exp(one.mean) for one in valid)
    spread = sd([one.mean for one in valid])
    return (
        f"| {name} | {len(valid)} of {len(sessions)} | {means} | {spread:.1%} | {expected:.1%} "
        f"| {welch} of {len(pairs)} | {ours} of {len(pairs)} |"
    )


def _is_valid(ratios: Sequence[float]) -> bool:
    value, interval = mean_of_logs(ratios)
    assert interval is not None
    return (interval.high - interval.low) / (2 * value) <= latency.widest_half_width(value)


def _claimed(before: LogMean, after: LogMean, *, tau: float | None) -> bool:
    """Whether a change of at least 1 % would be claimed, where there is none."""
    value, interval = change_of_ratio(before, after, tau=tau)
    return not interval.low <= 1 <= interval.high and abs(math.log(value)) >= math.log1p(
        latency.LEAST_SPEEDUP
    )


def _span(values: Any) -> str:
    found = sorted(values)
    return f"{found[0]:.3g} to {found[-1]:.3g}"


if __name__ == "__main__":
    main()
