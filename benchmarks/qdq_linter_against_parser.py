"""Does the Q/DQ linter reject exactly the graphs that NVIDIA's own parser and builder refuse?

    python benchmarks/qdq_linter_against_parser.py            # needs tensorrt-rtx, no GPU
    python benchmarks/qdq_linter_against_parser.py --table    # render what was found as Markdown

Graphs that edgekd, ONNX Runtime, NNCF and Model Optimizer make of a small network, and graphs written by
hand around each rule, go through the linter and through parser and builder of TensorRT-RTX (which may crash
on one: that counts as a refusal). One row per graph is appended to results/qdq_linter_against_parser.jsonl;
one that is there for this version of TensorRT-RTX and this linter stays. Ends with 1 after a disagreement,
and with 2 where an origin is not installed (`pip install tensorrt-rtx nncf "nvidia-modelopt[onnx]"`).
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from evidence import append, rows

from edgekd.core.digest import of_data, of_file

NAME = "qdq_linter_against_parser"
LINTER = Path(__file__).parents[1] / "edgekd" / "backends" / "tensorrt"
RULES = ("qdq_lint.py", "placement_rules.py", "graph_scope.py", "unsupported.py")
TOOLS = {"onnxruntime": "onnxruntime", "nncf": "nncf", "modelopt": "nvidia-modelopt"}
ORIGINS = ("edgekd", "hand-made", *TOOLS)
TITLES = {"edgekd": "edgekd", "hand-made": "written by hand", "onnxruntime": "ONNX Runtime's quantizer"}
TITLES |= {"nncf": "NNCF", "modelopt": "Model Optimizer"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--table", action="store_true")
    if parser.parse_args().table:
        print(table(latest(rows(NAME))))
        return 0
    for package in ("tensorrt_rtx", "nncf", "modelopt"):
        if importlib.util.find_spec(package) is None:
            print(f"{package} is not installed: see --help", file=sys.stderr)
            return 2
    return run()


def run() -> int:
    from tests.backends.tensorrt import oracle
    from tests.backends.tensorrt.graphs import all_graphs

    linter = of_data([of_file(LINTER / name) for name in RULES])[:12]
    known = {(row["graph"], row["linter_digest"], row["tensorrt_rtx"]) for row in rows(NAME)}
    wrong = 0
    with oracle.opened() as asked:
        for origin, name, make in all_graphs():
            if (name, linter, version("tensorrt-rtx")) in known:
                continue
            line = oracle.compared(asked, name, make, build=True, origin=origin)
            wrong += not line["agree"]
            made_by = {"made_by": installed(TOOLS[origin])} if origin in TOOLS else {}
            append(NAME, {**line, **made_by, "linter_digest": linter})
            print(f"{'agree' if line['agree'] else 'DISAGREE'}  {name}: {line['linter']}, {line['parser']}")
    return int(wrong > 0)


def installed(distribution: str) -> str:
    try:
        return f"{distribution} {version(distribution)}"
    except PackageNotFoundError:
        return distribution


def latest(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the linter that was asked last, the last one of each graph."""
    newest = found[-1]["linter_digest"] if found else ""
    by_graph = {row["graph"]: row for row in found if row["linter_digest"] == newest}
    return list(by_graph.values())


def table(found: Sequence[dict[str, Any]]) -> str:
    """Counts by origin."""
    lines = [
        "| graphs of | graphs | refused by both | taken by both | disagreements |",
        "|---|---|---|---|---|",
    ]
    for origin in ORIGINS:
        lines.append(_line(TITLES[origin], [row for row in found if row["origin"] == origin]))
    lines.append(_line("**all**", found))
    versions = ", ".join(sorted({row["tensorrt_rtx"] for row in found}))
    made_by = ", ".join(sorted({row["made_by"] for row in found if "made_by" in row}))
    return "\n".join([*lines, "", f"TensorRT-RTX {versions}; {made_by}."])


def _line(title: str, found: Sequence[dict[str, Any]]) -> str:
    kinds = Counter((row["linter"] == "rejected") if row["agree"] else None for row in found)
    return f"| {title} | {len(found)} | {kinds[True]} | {kinds[False]} | {kinds[None]} |"


if __name__ == "__main__":
    sys.exit(main())
