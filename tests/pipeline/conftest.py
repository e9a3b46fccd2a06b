"""One tiny run from a teacher to a verdict, shared by every test that looks at what a run leaves."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

TINY = """
description: the smallest run that has every stage but the search
data: {source: digits, calibration: 64}
teacher: {network: resnet_cifar, args: {depth: 8}, batch_size: 32}
gate:
  accuracy_drop: {max: 90pt, against: teacher}
  size: 200KB
measure: {protocol: smoke}
steps:
  - teacher: {epochs: 3}
  - student: {network: resnet_cifar, args: {depth: 8, width: 0.25}}
  - distill: {method: kd, epochs: 3, batch_size: 32}
  - quantize: {method: kd, epochs: 1, batch_size: 32}
  - export: {}
"""


FIRST = "first.json"
"""What the command left that made the run."""


@dataclass(frozen=True)
class Finished:
    code: int
    out: str
    err: str


def edgekd(*arguments: str, cwd: Path, timeout: float = 300, wrapper: str | None = None) -> Finished:
    """Run the command line in a fresh process; `wrapper` is Python code run before it in that process."""
    start = (
        ["-m", "edgekd"]
        if wrapper is None
        else ["-c", f"{wrapper}\nfrom edgekd.cli.main import main\nmain()"]
    )
    done = subprocess.run(
        [sys.executable, *start, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    return Finished(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class TinyRun:
    """A finished run of `TINY`, made in `made`: `root` holds the recipe and the store `.edgekd`."""

    made: Path
    root: Path
    folder: Path
    first: Finished


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> TinyRun:
    """Made once by whichever worker comes first; every worker has a copy of its own."""
    base = tmp_path_factory.getbasetemp()
    made = (base.parent if hasattr(request.config, "workerinput") else base) / "tiny-made"
    with made.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (made / FIRST).is_file():
            _make_tiny_run(made)
    root = tmp_path_factory.mktemp("tiny")
    shutil.copytree(made, root, symlinks=True, dirs_exist_ok=True)
    first = Finished(**json.loads((root / FIRST).read_text()))
    (folder,) = (root / ".edgekd" / "runs" / "tiny").iterdir()
    return TinyRun(made, root, folder, first)


def _make_tiny_run(root: Path) -> None:
    root.mkdir(exist_ok=True)
    (root / "tiny.yaml").write_text(TINY)
    first = edgekd("run", "tiny.yaml", "--threads", "1", cwd=root)
    assert first.code in (0, 1, 3), first.err
    (root / FIRST).write_text(json.dumps(asdict(first)))
