"""The real parser and builder as an oracle: TensorRT-RTX, which needs no GPU for either.

`python -m tests.backends.tensorrt.oracle OUT.jsonl` appends one line a graph: what the linter says and what
TensorRT-RTX says. It ends with 1 when they disagree on one.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx

from edgekd.backends.tensorrt.qdq_lint import lint, rejected

WORKER = Path(__file__).with_name("parser_worker.py")
REASON = "needs TensorRT-RTX (`pip install tensorrt-rtx`, no GPU)"
TAKEN = frozenset({"parsed", "built"})


def is_there() -> bool:
    return importlib.util.find_spec("tensorrt_rtx") is not None


class Oracle:
    """A worker that is started again after every crash, which is an answer, too: `crashed`."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self.version = ""

    def ask(self, path: Path, *, build: bool) -> dict[str, Any]:
        process = self._process or self._started()
        assert process.stdin is not None
        process.stdin.write(json.dumps({"path": str(path), "build": build}) + "\n")
        process.stdin.flush()
        line = _next_object(process)
        if line is not None:
            return line
        return {"verdict": "crashed", "errors": [f"exit code {self.close()}"]}

    def close(self) -> int | None:
        """End the worker and its pipes; returns its exit code, None where there is none."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.communicate(timeout=60)
        return process.returncode

    def _started(self) -> subprocess.Popen[str]:
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.version = (_next_object(self._process) or {})["version"]
        return self._process


@contextmanager
def opened() -> Iterator[Oracle]:
    oracle = Oracle()
    try:
        yield oracle
    finally:
        oracle.close()


def compared(
    oracle: Oracle, name: str, make: Callable[[], onnx.ModelProto], *, build: bool, origin: str
) -> dict[str, Any]:
    """One line of evidence. `agree`: the linter's `rejected` is what parser or builder refuse."""
    model = make()
    findings = lint(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        path.write_bytes(model.SerializeToString())
        answer = oracle.ask(path, build=build)
    return {
        "graph": name,
        "origin": origin,
        "linter": "rejected" if rejected(findings) else "accepted",
        "rules": sorted({f"{finding.severity}: {finding.rule}" for finding in findings}),
        "parser": answer["verdict"],
        "errors": [error[:300] for error in answer["errors"]],
        "tensorrt_rtx": oracle.version,
        "agree": bool(rejected(findings)) != (answer["verdict"] in TAKEN),
    }


def main(path: Path) -> int:
    from tests.backends.tensorrt.graphs import all_graphs

    wrong = 0
    with opened() as oracle, path.open("a", encoding="utf-8") as stream:
        for origin, name, make in all_graphs():
            line = compared(oracle, name, make, build=True, origin=origin)
            wrong += not line["agree"]
            stream.write(json.dumps(line, sort_keys=True) + "\n")
            stream.flush()
    return int(wrong > 0)


def _next_object(process: subprocess.Popen[str]) -> dict[str, Any] | None:
    """The worker's next line that is JSON (the library prints lines of its own); None when it has ended."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            found: dict[str, Any] = json.loads(line)
            return found
    return None


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
