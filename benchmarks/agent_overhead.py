"""What the agent's timed loop adds to an inference, beside a bare loop around `session.run`.

python benchmarks/agent_overhead.py [--rounds 200] [--again]

Both loops run the same ONNX Runtime session on the same inputs in turn, in one process: the agent's own
`Timed.once`, and `started = clock(); run(outputs, feed); clock() - started` with everything looked up before.
Blocks of 50 runs alternate in an order drawn anew; of each round the difference of the two blocks' medians
counts. What the timed interval holds more is one difference (`measured_us`); what a run takes more from its
start to the next one's, the other (`loop_us`). One row is appended to results/agent_overhead.jsonl.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

from evidence import append, rows

NAME = "agent_overhead"
LIMIT_US = 5.0
BLOCK = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--again", action="store_true", help="another row beside what is recorded")
    arguments = parser.parse_args()
    if (recorded := rows(NAME)) and not arguments.again:
        print(f"{len(recorded)} recorded already")
        return
    rounds = arguments.rounds
    row: dict[str, Any] = {"rounds": rounds, "block": BLOCK, "limit_us": LIMIT_US}
    with tempfile.TemporaryDirectory() as folder:
        row["models"] = [measure(name, path, rounds) for name, path in models(Path(folder)).items()]
    row["within_limit"] = all(one["loop_us"]["p50"] <= LIMIT_US for one in row["models"])
    append(NAME, row)
    print(json.dumps(row, indent=1))


def models(folder: Path) -> dict[str, Path]:
    """One node, where any overhead shows, and a small network of convolutions."""
    from edgekd.backends.onnx.baseline import one_node_graph

    one = folder / "one_node.onnx"
    one.write_bytes(one_node_graph())
    return {"one node": one, "two convolutions": convolutions(folder / "convolutions.onnx")}


def convolutions(path: Path) -> Path:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    generator = np.random.default_rng(0)
    shapes = {"w0": (16, 3, 3, 3), "w1": (16, 16, 3, 3)}
    weights = {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("Conv", ["input", "w0"], ["a"], pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w1"], ["c"], pads=[1] * 4),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "convolutions",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 16])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def measure(name: str, path: Path, rounds: int) -> dict[str, Any]:
    """Differences of the loops in microseconds: median over rounds, and the middle half."""
    agents, bare = loops(path)
    for loop in (agents, bare):
        for _ in range(20):
            loop()
    gc.collect()
    gc.disable()
    order, found = random.Random(0), []
    for _ in range(rounds):
        both = {"agent": agents, "bare": bare}
        names = order.sample(sorted(both), 2)
        blocks = {which: block(both[which]) for which in names}
        (measured, paced), (run, pace) = blocks["agent"], blocks["bare"]
        found.append((measured - run, paced - pace, run))
    gc.enable()
    parts = zip(*found, strict=True)
    measured_us, loop_us, run_us = (quartiles([value / 1e3 for value in part]) for part in parts)
    return {"model": name, "run_us": run_us, "measured_us": measured_us, "loop_us": loop_us}


def block(once: Callable[[], int]) -> tuple[float, float]:
    """Median nanoseconds of a run as the loop measures it, and from one run's start to the next one's."""
    once()
    clock, runs, starts = time.perf_counter_ns, [], []
    for _ in range(BLOCK):
        starts.append(clock())
        runs.append(once())
    return statistics.median(runs), statistics.median(b - a for a, b in pairwise(starts))


def quartiles(values: list[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return {"p25": round(low, 3), "p50": round(middle, 3), "p75": round(high, 3)}


def loops(path: Path) -> tuple[Callable[[], int], Callable[[], int]]:
    """The agent's loop and the bare one, on one session and the same inputs in turn."""
    from edgekd.backends.onnx import runtime
    from edgekd.core.digest import of_file
    from edgekd.measure import agent

    module = "runtime_onnx"
    agent.sys.modules[module] = runtime
    artifact = {
        "name": path.stem,
        "path": str(path),
        "sha256": of_file(path),
        "runtime": module,
        "images": None,
    }
    timed = agent.Timed({"threads": 1, "batch": 1, "seed": 0}, artifact)
    session, names = timed.graph._session, timed.graph._outputs
    feeds = cycle([{timed.graph.input_name: x} for x in timed.inputs])
    run, clock = session.run, time.perf_counter_ns

    def bare() -> int:
        feed = next(feeds)
        started = clock()
        run(names, feed)
        return clock() - started

    return timed.once, bare


if __name__ == "__main__":
    main()
