"""A/A under load: is a file ever called faster than itself, and is a difference of 1.5 % always told?

python benchmarks/aa_under_load.py [--trials 360] [--table]

Each trial is one `edgekd bench` of five fresh processes on two depthwise networks of about 0.3 ms, beside 0,
1 or 2 processes that keep a core busy each. Of six trials, five time a file beside its copy (300 in all) and
one a network beside the same with one layer narrower by an eighth (60). How much faster that one is, long
sessions of 40 processes without load say first, of networks with 11, 10, 12 ... layers until one is 1.4 % to
1.7 % faster. One row a trial is appended to results/aa_under_load.jsonl; what is there is not redone. A trial
takes about ten seconds, a calibration two minutes. Nothing else should run on the machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from evidence import append, rows
from onnx import TensorProto, helper, numpy_helper

from edgekd.measure.probes import Graph
from edgekd.measure.protocol import Protocol, WarmUp
from edgekd.pipeline.bench import Bench, run_bench
from edgekd.store.store import Store
from edgekd.targets.local import LocalTarget

NAME = "aa_under_load"
LOADS = (0, 1, 2)
EVERY = 6
"""One trial in so many is of the two networks that differ."""
WIDTH, NARROW, SIDE = 64, 56, 32
LAYERS = (11, 10, 12, 9, 8)
LEAST, MOST = 1.014, 1.017
"""How much faster the narrower network is to be."""
WARM_UP = WarmUp(min_s=0.1, max_s=0.5)
TRIAL = Protocol(name="aa", min_duration_s=4, min_count=5_000, warm_up=WARM_UP)
"""A hundred rounds of blocks in each process, however busy the machine is."""
LONG = Protocol(name="calibration", min_duration_s=80, min_count=80_000, num_processes=40, warm_up=WARM_UP)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--trials", type=int, default=360)
    parser.add_argument("--table", action="store_true", help="only show what is recorded")
    chosen = parser.parse_args()
    if not chosen.table:
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), chosen.trials)
    table(rows(NAME))


def measure(folder: Path, trials: int) -> None:
    layers = calibrated(folder)
    same, narrower = networks(folder, layers)
    copy = folder / "copy.onnx"
    shutil.copyfile(same, copy)
    for number in range(sum("trial" in row for row in rows(NAME)), trials):
        other = narrower if number % EVERY == EVERY - 1 else copy
        hogs = LOADS[number // EVERY % len(LOADS)]
        with busy(hogs):
            found = compare(same, other, TRIAL, folder)
        kind = "differs" if other is narrower else "same"
        tell({"trial": number, "kind": kind, "hogs": hogs, "layers": layers, **found})


def calibrated(folder: Path) -> int:
    """The number of layers at which the two networks differ by about 1.5 %."""
    for layers in LAYERS:
        known = [row for row in rows(NAME) if row["kind"] == "calibration" and row["layers"] == layers]
        if not known:
            print(f"calibrating networks of {layers} layers ...", flush=True)
            found = compare(*networks(folder, layers), LONG, folder)
            known = [tell({"kind": "calibration", "layers": layers, **found})]
        if LEAST <= known[0]["ratio"] <= MOST:
            return layers
    raise SystemExit(f"no network of {LAYERS} layers differs by 1.5 % here; see results/{NAME}.jsonl")


def networks(folder: Path, layers: int) -> tuple[Path, Path]:
    same, narrower = folder / f"same-{layers}.onnx", folder / f"narrower-{layers}.onnx"
    widths = [WIDTH] * layers
    save(same, widths)
    widths[layers // 2] = NARROW
    save(narrower, widths)
    return same, narrower


def compare(baseline: Path, other: Path, protocol: Protocol, folder: Path) -> dict[str, Any]:
    started = time.monotonic()
    bench = Bench({"a": Graph(baseline), "b": Graph(other)}, "a", LocalTarget(name="local"), protocol)
    result = run_bench(bench, Store(folder / "store"), lambda event: None)
    (one,) = result.comparisons
    logs = [math.log(ratio) for ratio in one.estimate.detail["process_ratios"]]
    p50 = next(m for m in result.measurements if m.quantity == "latency_p50_ms")
    return {
        "answer": one.answer,
        "ratio": round(one.ratio, 5),
        "low": round(one.interval.low, 5) if one.interval else None,
        "high": round(one.interval.high, 5) if one.interval else None,
        "spread": round(statistics.stdev(logs), 5),
        "why": list(one.why),
        "processes": one.processes,
        "p50_ms": round(p50.value or 0.0, 4),
        "p50_valid": p50.validity.valid,
        "seconds": round(time.monotonic() - started, 1),
    }


@contextmanager
def busy(count: int) -> Iterator[None]:
    """So many processes that keep a core busy each, ended afterwards."""
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def tell(row: dict[str, Any]) -> dict[str, Any]:
    append(NAME, row)
    print(json.dumps(row), flush=True)
    return row


def table(found: list[dict[str, Any]]) -> None:
    """Answers, spreads and times by kind and load."""
    for row in found:
        if row["kind"] == "calibration":
            told = f"{row['ratio']:.4f} ({row['low']:.4f} to {row['high']:.4f})"
            print(f"calibration of {row['layers']} layers, {row['processes']} processes: {told}")
    print(
        f"{'':<10}{'load':>5}{'trials':>8}{'faster':>8}{'slower':>8}{'cannot tell':>13}{'spread':>9}{'s':>7}"
    )
    for kind in ("same", "differs"):
        for hogs in LOADS:
            cell = [row for row in found if row["kind"] == kind and row["hogs"] == hogs]
            if cell:
                print(f"{kind:<10}{hogs:>5}{line(cell)}")
        whole = [row for row in found if row["kind"] == kind]
        if whole:
            print(f"{kind:<10}{'all':>5}{line(whole)}")


def line(cell: list[dict[str, Any]]) -> str:
    answers = [sum(row["answer"] == word for row in cell) for word in ("faster", "slower", "cannot tell")]
    spread = statistics.median(row["spread"] for row in cell)
    seconds = statistics.median(row["seconds"] for row in cell)
    return f"{len(cell):>8}{answers[0]:>8}{answers[1]:>8}{answers[2]:>13}{spread:>9.2%}{seconds:>7.1f}"


# --- the networks -------------------------------------------------------------------------------------------


def save(path: Path, widths: list[int], seed: int = 0) -> None:
    """A 3x3 stem and a depthwise and a pointwise convolution a layer, with random weights."""
    generator = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, npt.NDArray[np.float32]] = {}

    def convolution(source: str, name: str, inside: int, out: int, kernel: int, **settings: Any) -> str:
        fan = inside // settings.get("group", 1) * kernel * kernel
        shape = (out, inside // settings.get("group", 1), kernel, kernel)
        weights[name] = (generator.standard_normal(shape) * math.sqrt(2 / fan)).astype(np.float32)
        settings = {"pads": [kernel // 2] * 4, **settings}
        nodes.append(helper.make_node("Conv", [source, name], [f"{name}-conv"], name, **settings))
        nodes.append(helper.make_node("Relu", [f"{name}-conv"], [f"{name}-out"], f"{name}-relu"))
        return f"{name}-out"

    value = convolution("input", "stem", 3, widths[0], 3, strides=[2, 2])
    for number, (inside, out) in enumerate(itertools.pairwise(widths)):
        value = convolution(value, f"depth{number}", inside, inside, 3, group=inside)
        value = convolution(value, f"point{number}", inside, out, 1)
    weights["fc"] = generator.standard_normal((10, widths[-1])).astype(np.float32)
    nodes += [
        helper.make_node("GlobalAveragePool", [value], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "fc"], ["logits"], "fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())


if __name__ == "__main__":
    main()
