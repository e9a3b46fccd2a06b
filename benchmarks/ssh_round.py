"""How long a round to a device takes: log in, push, 100 inferences, 512 images, pull, hang up.

python benchmarks/ssh_round.py [--where loopback|emulated] [--again] [--table]

`loopback` is a real sshd on this machine, at most 3 s; `emulated` is a 64-bit Arm userland that qemu runs
behind a real sshd (`tests/devices/arm64.py`), at most 7 s. Six rounds each, every one with a new login, fresh
processes of the agent and nothing cached on the device. One row a round is appended to
results/ssh_round.jsonl. Needs what `make test-devices` needs; be alone on the machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

from evidence import append, rows
from round_material import NUM_IMAGES, item

from edgekd.measure.answers import entry_of
from edgekd.measure.device import Device
from edgekd.measure.protocol import Protocol, WarmUp
from edgekd.targets.ssh import SshTarget
from tests.devices import arm64
from tests.devices.sshd import NEEDED, SSHD, running_sshd

NAME = "ssh_round"
REPEATS = 6
LIMITS_S = {"loopback": 3.0, "emulated": 7.0}
INFERENCES = 100
PROTOCOL = Protocol(
    name="round",
    min_duration_s=0.001,
    min_count=INFERENCES,
    num_processes=1,
    min_rounds=1,
    warm_up=WarmUp(min_s=0.0, min_count=1, max_s=0.001),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--where", choices=tuple(LIMITS_S), action="append")
    parser.add_argument("--again", action="store_true", help="six more rounds beside what is recorded")
    parser.add_argument("--table", action="store_true", help="print what is there and run nothing")
    options = parser.parse_args()
    for where in () if options.table else options.where or tuple(LIMITS_S):
        done = 0 if options.again else sum(row["where"] == where for row in rows(NAME))
        take(where, REPEATS - done)
    print(table(rows(NAME)))
    return 0 if all(row["total_s"] <= row["limit_s"] for row in rows(NAME)) else 1


def take(where: str, count: int) -> None:
    if count <= 0:
        return
    with tempfile.TemporaryDirectory(prefix="edgekd-round-") as name, device(where, Path(name)) as target:
        chosen = item(Path(name))
        once(target, chosen, Path(name))  # what the first round alone pays: files that are read from disk
        for _ in range(count):
            row = once(target, chosen, Path(name))
            append(NAME, {"where": where, "limit_s": LIMITS_S[where], "load": os.getloadavg()[0], **row})


@contextmanager
def device(where: str, folder: Path) -> Iterator[SshTarget]:
    """A server that runs, and the target whose address and key this process's environment then names."""
    reason = f"needs {NEEDED}" if SSHD is None else arm64.why_not() if where == "emulated" else None
    if reason is not None:
        raise SystemExit(f"{where}: {reason}")
    running = arm64.running_arm64(folder / "arm64") if where == "emulated" else running_sshd(folder / "sshd")
    with running as server:
        os.environ.update(server.environment())
        yield server.target(python=arm64.PYTHON) if where == "emulated" else server.target()


def once(target: SshTarget, chosen: Any, folder: Path) -> dict[str, Any]:
    """One round; seconds of each part and of the whole."""
    at = [time.monotonic()]
    with target.open() as session:
        at.append(time.monotonic())
        device = Device(target, session)
        entry = entry_of(device, chosen, chosen.evalset / "images.npy")
        at.append(time.monotonic())
        timed = device.call("latency", [entry], seed=0, **PROTOCOL.request())
        at.append(time.monotonic())
        request = {"out": "logits.npy", "profile": False, **PROTOCOL.request()}
        answered = device.call("accuracy", [entry], **request)
        at.append(time.monotonic())
        device.pull("logits.npy", folder / "logits.npy")
        at.append(time.monotonic())
    at.append(time.monotonic())
    (graph,) = timed["result"]["graphs"].values()
    inferences = sum(map(len, graph["blocks_ns"]))
    assert inferences >= INFERENCES and answered["result"]["n"] == NUM_IMAGES
    names = ("open", "push", "inferences", "images", "pull", "close")
    parts = {name: round(at[n + 1] - at[n], 3) for n, name in enumerate(names)}
    return {
        "total_s": round(at[-1] - at[0], 3),
        "parts_s": parts,
        "inferences": inferences,
        "images": NUM_IMAGES,
        "model_bytes": chosen.path.stat().st_size,
        "image_bytes": (chosen.evalset / "images.npy").stat().st_size,
        "device": answered["facts"]["machine"],
        "emulated": answered["facts"]["emulated"],
    }


def table(found: list[dict[str, Any]]) -> str:
    lines = ["| where | rounds | median | slowest | at most | parts (median) |", "|---|---|---|---|---|---|"]
    for where in dict.fromkeys(row["where"] for row in found):
        those = [row for row in found if row["where"] == where]
        totals = [row["total_s"] for row in those]
        parts = {
            name: statistics.median(row["parts_s"][name] for row in those) for name in those[0]["parts_s"]
        }
        told = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in parts.items())
        ends = f"{statistics.median(totals):.2f} s | {max(totals):.2f} s | {LIMITS_S[where]:.0f} s"
        lines.append(f"| {where} | {len(those)} | {ends} | {told} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
