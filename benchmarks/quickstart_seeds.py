"""The shipped quickstart under several seeds: size, speed and accuracy against the teacher, with intervals.

python benchmarks/quickstart_seeds.py [--seeds 3]

One row a seed is appended to results/quickstart_seeds.jsonl; what is there is not redone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from evidence import append, rows

from edgekd.core.measurement import Measurement, read_measurements

NAME = "quickstart_seeds"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    done = {row["seed"] for row in rows(NAME)}
    for seed in range(parser.parse_args().seeds):
        if seed not in done:
            row = one(seed)
            append(NAME, row)
            print(json.dumps(row, indent=1))


def one(seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "edgekd", "run", "quickstart", "--json", "--set", f"seed={seed}"]
        started = time.monotonic()
        finished = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        seconds = time.monotonic() - started
        if finished.returncode not in (0, 1, 3):
            raise SystemExit(finished.stderr)
        run = Path(folder, json.loads(finished.stdout)["run"])
        record = json.loads((run / "record.json").read_text())
        found = read_measurements(run / "measurements.jsonl")
    student = next(step["facts"]["candidate"] for step in record["steps"] if step["name"] == "select")
    size = {name: pick(found, "size_bytes", name).value or 0 for name in ("teacher", "quantized")}
    return {
        "seed": seed,
        "exit_code": finished.returncode,
        "seconds": round(seconds, 1),
        "student": student,
        "times_smaller": round(size["teacher"] / size["quantized"], 3),
        "speedup_vs_teacher": told(pick(found, "speedup", "quantized", "teacher")),
        "speedup_vs_fp32": told(pick(found, "speedup", "quantized", "distilled")),
        "drop_vs_teacher": told(pick(found, "accuracy_drop", "quantized", "teacher")),
        "drop_vs_fp32": told(pick(found, "accuracy_drop", "quantized", "distilled")),
        "accuracy": {
            n: pick(found, "accuracy", n).value
            for n in ("teacher", "undistilled", "distilled", "ptq", "quantized")
        },
    }


def pick(found: list[Measurement], quantity: str, name: str, against: str | None = None) -> Measurement:
    return next(
        m
        for m in found
        if m.quantity == quantity
        and m.subject.name == name
        and (m.against.name if m.against else None) == against
    )


def told(m: Measurement) -> dict[str, Any]:
    interval = [m.interval.low, m.interval.high] if m.interval else None
    return {"value": m.value, "interval": interval, "n": m.n, "valid": m.validity.valid}


if __name__ == "__main__":
    main()
