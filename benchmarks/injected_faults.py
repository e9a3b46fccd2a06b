"""Faults of many kinds at random instants of a measuring session over ssh: what is told, and what is left?

python benchmarks/injected_faults.py [--count 50] [--only PATTERN] [--again] [--dry] [--table]

A real sshd at the other end of a virtual cable, in network namespaces. One session without a fault is the
reference. Then, for each fault, a new one: it is broken at an instant drawn by the fault's number, and when
it has ended and what was broken is mended, the same command is given again. It must then come to its end,
with the answers of the reference and with everything that was remembered before. What the fault made the
command tell must be an error for a person (`is_clear`) that fits the kind, and no folder, ticket, process or
file may be left on the device. Where something stays broken, the command is also given again before it is
mended.

The kinds are in `fault_kinds.py`. One row a fault is appended to results/injected_faults.jsonl; what is there
is not redone. Needs root and what `make test-devices` needs; about half an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

from evidence import append, rows
from fault_kinds import KINDS, Fault
from fault_scene import Attempt, Scene, is_clear, scene

from tests.devices import namespaces
from tests.devices.sshd import NEEDED, SSHD

NAME = "injected_faults"
COUNT = 50
SHARE = (0.02, 0.98)
"""Of the reference's time on the device: when a fault is made."""
UPLOAD_S = 2.5
"""How long a file is on its way at least, where that is when a fault is made."""
DRAWS = 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--only", default="", help="regular expression searched in the kinds")
    parser.add_argument("--again", action="store_true", help="also what has a row; the last row counts")
    parser.add_argument("--dry", action="store_true", help="leave no rows")
    parser.add_argument("--table", action="store_true", help="print what is there and run nothing")
    options = parser.parse_args()
    found = {row["fault"]: row for row in rows(NAME)}
    missing = [number for number in range(options.count) if options.again or number not in found]
    wanted = [number for number in missing if re.search(options.only, kind_of(number))]
    for row in [] if options.table or not wanted else take(wanted):
        found[row["fault"]] = row
        if not options.dry:
            append(NAME, row)
        print(line(row), flush=True)
    shown = [found[number] for number in sorted(found) if number < options.count]
    print(table(shown))
    return 0 if len(shown) >= options.count and all(row["holds"] for row in shown) else 1


def kind_of(number: int) -> str:
    return list(KINDS)[number % len(KINDS)]


def take(numbers: list[int]) -> Any:
    reason = f"needs {NEEDED}" if SSHD is None else namespaces.why_not()
    if reason is not None:
        raise SystemExit(reason)
    with tempfile.TemporaryDirectory(prefix="edgekd-faults-") as folder, scene(Path(folder)) as place:
        reference = place.attempt(place.new_journal())
        if reference.measured is None:
            raise SystemExit(f"without any fault: {reference.said}")
        assert (place.server.home / "edgekd" / "sessions").is_dir(), "we do not see what the device sees"
        print(f"reference: {reference.seconds} s, {on_device_s(reference):.1f} s of it on the device")
        for number in numbers:
            yield one(place, number, reference)


def on_device_s(reference: Attempt) -> float:
    """Everything before this machine is asked for its own answers."""
    return reference.seconds * 0.85


# --- one fault ----------------------------------------------------------------------------------------------


def one(place: Scene, number: int, reference: Attempt) -> dict[str, Any]:
    kind, started = kind_of(number), time.monotonic()
    fault, draw = KINDS[kind], random.Random(f"{NAME}-{number}")
    for _ in range(DRAWS):  # at the very end of a session there may be nothing left to break
        work, instant = place.new_journal(), draw.uniform(*SHARE)
        phase, hit, first = strike(place, fault, work, instant * on_device_s(reference))
        if hit:
            break
    remembered = journal(work)
    broken = place.attempt(place.new_journal()) if fault.while_broken else None
    fault.mend(place)
    again = place.attempt(work)
    after = journal(work)
    row = {
        "fault": number,
        "kind": kind,
        "what": fault.what,
        "instant_s": round(instant * on_device_s(reference), 2),
        "phase": phase,
        "hit": hit,
        "first": told(first),
        "while_broken": broken and told(broken),
        "again": told(again),
        "remembered": len(remembered),
        "kept": all(after.get(key) == value for key, value in remembered.items()),
        "same_answers": again.measured is not None and answers(again) == answers(reference),
        "left": place.soon(place.left),
        "left_here": place.soon(place.left_here),
        "seconds": round(time.monotonic() - started, 1),
    }
    ends = {"ends_well": ended_well(place, fault, first), "told_while_broken": refused(place, fault, broken)}
    return {**row, **ends, "holds": holds({**row, **ends})}


def strike(place: Scene, fault: Fault, work: Path, instant_s: float) -> tuple[str, bool, Attempt]:
    """The command, broken at that instant: where it then was, and whether there was something to break.

    Where it is to be broken during an upload, the instant counts from its start, modulo `UPLOAD_S`.
    """
    if fault.when == "before":
        fault.make(place)
        return "before", True, place.attempt(work)
    if fault.when == "upload":
        place.cable.limit("4mbit")
    place.start(work)
    if fault.when == "upload":
        place.wait_for(place.uploads)
        instant_s %= UPLOAD_S
    time.sleep(instant_s)
    phase = place.phase()
    hit = not place.over() and fault.make(place) is not False
    return phase, hit, place.end(work)


def ended_well(place: Scene, fault: Fault, first: Attempt) -> bool:
    """It came through, or told what is wrong in words that fit; or it was the command that was ended."""
    if first.code == 0 or fault.ends_host:
        return first.code in (0, 130, -2, -9)  # -2: Ctrl-C before it looked out for that
    return is_clear(first, place.server) and re.search(fault.says, first.said) is not None


def refused(place: Scene, fault: Fault, broken: Attempt | None) -> bool:
    if broken is None or fault.while_broken is None:
        return True
    return is_clear(broken, place.server) and re.search(fault.while_broken, broken.said) is not None


def holds(row: dict[str, Any]) -> bool:
    resumed = row["again"]["code"] == 0 and row["kept"] and row["same_answers"]
    clean = not row["left"] and not row["left_here"]
    return bool(row["hit"] and row["ends_well"] and row["told_while_broken"] and resumed and clean)


def told(attempt: Attempt) -> dict[str, Any]:
    return {"code": attempt.code, "said": attempt.said[:300], "seconds": attempt.seconds}


def answers(attempt: Attempt) -> tuple[Any, Any]:
    measured = attempt.measured or {}
    return measured.get("predictions"), measured.get("values", {}).get("host_agreement")


def journal(work: Path) -> dict[str, Any]:
    path, found = work / "journal.jsonl", {}
    for text in path.read_text().splitlines() if path.exists() else []:
        if text.strip().endswith("}"):
            entry = json.loads(text)
            found[entry["key"]] = entry["value"]
    return found


# --- what is told of them -----------------------------------------------------------------------------------


def line(row: dict[str, Any]) -> str:
    first, again = row["first"], row["again"]
    said = (first["said"].splitlines() or [""])[0][:90]
    word = "holds" if row["holds"] else "DOES NOT HOLD"
    return (
        f"{row['fault']:3} {word}: {row['kind']} at {row['instant_s']} s ({row['phase']}): "
        f"code {first['code']} after {first['seconds']} s {said!r}; "
        f"again: code {again['code']} in {again['seconds']} s, "
        f"{row['remembered']} remembered, left: {row['left'] + row['left_here'] or 'nothing'}"
    )


def table(found: list[dict[str, Any]]) -> str:
    """One line a kind: how often it was made, came through, was told or ended the command, and held."""
    head = "| fault | made | came through | told or ended | held | longest command |"
    lines = [head, "|---|---|---|---|---|---|"]
    for kind in dict.fromkeys(row["kind"] for row in found):
        those = [row for row in found if row["kind"] == kind]
        through = sum(row["first"]["code"] == 0 for row in those)
        held = sum(row["holds"] for row in those)
        longest = max(row["first"]["seconds"] for row in those)
        counts = f"{len(those)} | {through} | {len(those) - through} | {held}"
        lines.append(f"| {kind} | {counts} | {longest:.0f} s |")
    held = sum(row["holds"] for row in found)
    return "\n".join([*lines, f"\n{held} of {len(found)} hold"])


if __name__ == "__main__":
    sys.exit(main())
