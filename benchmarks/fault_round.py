"""One measuring session on the device, remembered on disk: what `injected_faults.py` breaks and starts again.

python benchmarks/fault_round.py FOLDER

FOLDER holds target.json. It leaves journal.jsonl, a line for each process of the agent, and prints what it
measured.
Ends as `edgekd` does: 0, or 4 and the error's text when the device was lost, or 130 when interrupted.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1]))

from round_material import CLASSES, item

from edgekd.core.errors import EXIT_INTERRUPTED, EdgekdError
from edgekd.measure.protocol import Protocol, WarmUp
from edgekd.measure.runner import measure_session
from edgekd.store.journal import Journal
from edgekd.targets.ssh import SshTarget

PROTOCOL = Protocol(
    name="faults",
    min_duration_s=1.0,
    min_count=100,
    num_processes=2,
    warm_up=WarmUp(min_s=0.05, max_s=0.1),
    memory_processes=1,
    memory_runs=5,
    cooldown_s=0,
    retry=False,
    deadline_s=20,
)
"""A short deadline, for an agent that was stopped."""


def main(folder: Path) -> int:
    target = SshTarget.model_validate_json((folder / "target.json").read_text())
    try:
        found = measure_session(
            [item(folder)],
            target=target,
            protocol=PROTOCOL,
            baselines=[],
            labels=CLASSES,
            folder=folder / "session",
            journal=Journal(folder / "journal.jsonl"),
            emit=lambda event: print(json.dumps(event), flush=True),
            seed=1,
        )
    except EdgekdError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    values = {m.quantity: m.value for m in found}
    (accuracy,) = [m for m in found if m.quantity == "accuracy"]
    digest = accuracy.detail["predictions_sha256"]
    print(json.dumps({"event": "measured", "values": values, "predictions": digest}))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
