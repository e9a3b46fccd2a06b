"""What passes that must not, and what does not pass though it is sound.

python benchmarks/false_passes.py [--only PATTERN] [--kind defect|sound] [--again] [--table]

Every case builds an artifact, its data and its surroundings in a folder of its own and puts them through the
command line: `edgekd audit`, and where it is about what comes after, `gate`, `report`, `bundle`, `verify` and
`measure`. Of the planted defects none may pass, and the reason must be the one that was planted; of the sound
artifacts at most two may not pass. One row a case is appended to results/false_passes.jsonl; what is there is
not redone. Cases that a machine cannot show (saturation where there is VNNI) are skipped with the reason.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

from evidence import append, rows
from planted.all_cases import CASES
from planted.running import Case, Place

NAME = "false_passes"
MOST_SOUND_LOST = 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default="", help="regular expression searched in the names")
    parser.add_argument("--kind", choices=("defect", "sound"))
    parser.add_argument("--again", action="store_true", help="also what has a row; the last row counts")
    parser.add_argument("--dry", action="store_true", help="leave no rows")
    parser.add_argument("--table", action="store_true", help="print what is there and run nothing")
    options = parser.parse_args()
    found = {} if options.again or options.dry else {row["case"]: row for row in rows(NAME)}
    for case in CASES.values():
        wanted = re.search(options.only, case.name) and options.kind in (None, case.kind)
        if options.table or not wanted or case.name in found:
            continue
        found[case.name] = row = run(case)
        if not options.dry:
            append(NAME, row)
        print(line(row), flush=True)
    print(table(list(found.values())))
    return 0 if holds(list(found.values())) else 1


def run(case: Case) -> dict[str, Any]:
    """One case in a temporary folder; what it raises is a row as well, and never a pass."""
    why = case.skip()
    if why is not None:
        return {"case": case.name, "kind": case.kind, "skipped": why}
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="edgekd-case-") as folder:
        try:
            ended = case.run(Place(Path(folder)))
        except Exception as error:
            traceback.print_exc()
            return {"case": case.name, "kind": case.kind, "broken": f"{type(error).__name__}: {error}"[:500]}
    reasons = ended.reasons
    return {
        "case": case.name,
        "kind": case.kind,
        "code": ended.code,
        "passed": ended.passed,
        "expected": bool(re.search(case.expects, " | ".join(reasons))) if case.kind == "defect" else None,
        "reasons": [one[:300] for one in reasons],
        "seconds": round(time.monotonic() - started, 1),
    }


def line(row: dict[str, Any]) -> str:
    """One row as text: a star marks what is wrong."""
    if "skipped" in row or "broken" in row:
        return f"  {row['kind']:<7} {row['case']:<44} {row.get('skipped') or row['broken']}"
    star = "*" if is_wrong(row) else " "
    why = "; ".join(row["reasons"])[:120] or "passed"
    return f"{star} {row['kind']:<7} {row['case']:<44} {row['code']:>2} {row['seconds']:>6} s  {why}"


def is_wrong(row: dict[str, Any]) -> bool:
    if "skipped" in row:
        return False
    if "broken" in row:
        return True
    return not row["passed"] if row["kind"] == "sound" else row["passed"] or not row["expected"]


def table(found: list[dict[str, Any]]) -> str:
    lines = []
    for kind, word in (("defect", "passed"), ("sound", "did not pass")):
        here = [row for row in found if row["kind"] == kind]
        ran = [row for row in here if "code" in row]
        off = [row for row in ran if row["passed"] == (kind == "defect")]
        lines.append(f"{kind}: {len(ran)} ran, {len(off)} {word}: {', '.join(r['case'] for r in off) or '-'}")
        if kind == "defect":
            other = [row["case"] for row in ran if not row["passed"] and not row["expected"]]
            lines.append(f"  for another reason than the planted one: {', '.join(other) or '-'}")
        lines += [f"  skipped: {r['case']}: {r['skipped']}" for r in here if "skipped" in r]
        lines += [f"  broken: {r['case']}: {r['broken']}" for r in here if "broken" in r]
    lines.append(f"{sum(row.get('seconds', 0) for row in found):.0f} s in all")
    return "\n".join(lines)


def holds(found: list[dict[str, Any]]) -> bool:
    defects_ = [row for row in found if row["kind"] == "defect" and "skipped" not in row]
    lost = sum(is_wrong(row) for row in found if row["kind"] == "sound")
    return all(not row.get("passed", True) for row in defects_) and lost <= MOST_SOUND_LOST


if __name__ == "__main__":
    sys.exit(main())
