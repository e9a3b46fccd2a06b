"""kill -9 at random instants of a run, then the same command: do digests and accuracies come out the same?

python benchmarks/kill_runs.py [--kills 20]

A reference run is made first. Then, for each kill, a fresh store: the run is started, killed at a random
instant of the reference's duration, looked at (alive? inside which step? is its lock free?), and the same
command is run to its end. One row a kill is appended to results/kill_runs.jsonl; what is there is not redone.
The recipe names its student (no search), so that nothing in it is decided by timing.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from evidence import append, rows

from edgekd.core.measurement import read_measurements
from edgekd.store.store import Store

NAME = "kill_runs"
RECIPE = """
name: kill
data: {source: digits, calibration: 64}
teacher: {network: resnet_cifar, args: {depth: 8}, batch_size: 32}
gate: {size: 200KB}
measure: {protocol: smoke}
steps:
  - teacher: {epochs: 3}
  - student: {network: resnet_cifar, args: {depth: 8, width: 0.5}}
  - distill: {method: kd, epochs: 4, batch_size: 32}
  - quantize: {method: kd, epochs: 2, batch_size: 32}
  - export: {}
"""
START_UP = 0.2
"""Share of a run that goes by before its first step; a kill there has nothing to lose."""
COMMAND = [sys.executable, "-m", "edgekd", "run", "kill.yaml", "--threads", "1"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    count = parser.parse_args().kills
    done = len(rows(NAME))
    if done >= count:
        print(f"{done} kills recorded already")
        return
    with tempfile.TemporaryDirectory() as folder:
        reference, seconds = run_whole(Path(folder))
    print(f"reference: {seconds:.1f} s, {len(reference['digests'])} artifacts")
    for number in range(done, count):
        row = one_kill(number, reference, seconds)
        append(NAME, row)
        print(json.dumps(row))


def run_whole(root: Path) -> tuple[dict[str, Any], float]:
    (root / "kill.yaml").write_text(RECIPE)
    started = time.monotonic()
    done = subprocess.run(COMMAND, cwd=root, capture_output=True, text=True)
    if done.returncode not in (0, 1, 3):
        raise SystemExit(done.stderr)
    return {**outcome(root), "code": done.returncode}, time.monotonic() - started


def outcome(root: Path) -> dict[str, Any]:
    """Digests by step and accuracies by row of the only run below `root`."""
    (folder,) = (root / ".edgekd" / "runs" / "kill").iterdir()
    record = json.loads((folder / "record.json").read_text())
    found = read_measurements(folder / "measurements.jsonl")
    return {
        "digests": {step["name"]: step["digest"] for step in record["steps"]},
        "accuracies": {m.subject.name: m.value for m in found if m.quantity == "accuracy"},
    }


def one_kill(number: int, reference: dict[str, Any], seconds: float) -> dict[str, Any]:
    instant = random.Random(f"kill-{number}").uniform(START_UP * seconds, seconds)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "kill.yaml").write_text(RECIPE)
        process = subprocess.Popen(COMMAND, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(instant)
        alive = process.poll() is None
        process.kill()
        process.wait()
        inside, free = state_of(root)
        again, _ = run_whole(root)
        leftovers = sorted(p.name for p in (root / ".edgekd" / "work").iterdir())
    return {
        "kill": number,
        "instant_s": round(instant, 2),
        "alive": alive,
        "inside": inside,
        "lock_free_after_kill": free,
        "same_digests": again["digests"] == reference["digests"],
        "same_accuracies": again["accuracies"] == reference["accuracies"],
        "same_exit_code": again["code"] == reference["code"],
        "leftovers": leftovers,
    }


def state_of(root: Path) -> tuple[str | None, bool]:
    """The step that was being worked on, and whether the lock of the dead process is free."""
    if not (root / ".edgekd" / "layout.json").exists():
        return None, True
    store = Store(root / ".edgekd")
    works = sorted((store.root / "work").iterdir(), key=lambda path: path.stat().st_mtime)
    if not works:
        return None, True
    lock = store.lock(works[-1].name)
    free = lock.try_acquire()
    lock.release()
    return step_of(store, works[-1].name), free


def step_of(store: Store, key: str) -> str:
    """A readable name of unfinished work: the last step that the run's events speak of."""
    if key.startswith("session-"):
        return "session"
    events = [p.read_text().splitlines() for p in (store.root / "runs" / "kill").glob("*/events.jsonl")]
    names = [json.loads(line).get("step") for lines in events for line in lines if '"event": "step"' in line]
    return str(names[-1]) if names else "?"


if __name__ == "__main__":
    main()
