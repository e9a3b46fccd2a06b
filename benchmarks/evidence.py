"""Appends rows of evidence to benchmarks/results/*.jsonl, each with the machine it was taken on."""

from __future__ import annotations

import json
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def append(name: str, row: dict[str, Any]) -> None:
    """One more line in `results/<name>.jsonl`."""
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{name}.jsonl").open("a") as stream:
        stream.write(json.dumps({**row, "machine": machine(), "at": now()}) + "\n")


def rows(name: str) -> list[dict[str, Any]]:
    """What is there already, so that a benchmark resumes."""
    path = RESULTS / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def machine() -> dict[str, Any]:
    from importlib.metadata import version

    from edgekd.train.precision import cpu_flags

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")
    flags = cpu_flags()
    return {
        "cpu": cpu,
        "isa": [f for f in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8") if f in flags],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "onnxruntime", "numpy")},
        "revision": revision(),
    }


def revision() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return done.stdout.strip()


def now() -> str:
    return datetime.now(UTC).replace(microsecond=0).isoformat()
