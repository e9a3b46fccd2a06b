"""`make bench`: every benchmark that fits a small machine, one after another; each resumes where it was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    for name in ("quickstart_seeds.py", "kill_runs.py", "agent_overhead.py", "false_passes.py"):
        print(f"--- {name}", flush=True)
        subprocess.run([sys.executable, str(HERE / name)], check=True)


if __name__ == "__main__":
    main()
