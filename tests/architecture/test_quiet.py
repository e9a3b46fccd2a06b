"""A test marked `quiet` has the machine to itself, on however many workers the suite runs."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).resolve().parents[1] / "conftest.py"
NUM_TESTS = 12

FILE = """
import time
from pathlib import Path
import pytest

@pytest.mark.parametrize("number", range({count}))
def test_busy(number):
    start = time.monotonic()
    time.sleep(0.02)
    with (Path(__file__).parent / "busy").open("a") as log:
        print(start, time.monotonic(), file=log)

@pytest.mark.quiet
def test_quiet():
    start = time.monotonic()
    time.sleep(0.1)
    with (Path(__file__).parent / "quiet").open("a") as log:
        print(start, time.monotonic(), file=log)
"""


Span = tuple[float, float]


def spans(path: Path) -> list[Span]:
    lines = [line.split() for line in path.read_text().splitlines()]
    return [(float(begin), float(end)) for begin, end in lines]


def overlap(one: Span, other: Span) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def test_no_other_test_runs_beside_a_quiet_one(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text())
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    quiet\n    slow\n")
    for name in ("one", "other"):
        (tmp_path / f"test_{name}.py").write_text(FILE.format(count=NUM_TESTS))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "-p", "no:hypothesispytest"],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    busy, quiet = spans(tmp_path / "busy"), spans(tmp_path / "quiet")
    assert (len(busy), len(quiet)) == (2 * NUM_TESTS, 2)
    assert any(overlap(*pair) for pair in itertools.combinations(busy, 2)), "nothing ran side by side"
    assert not any(overlap(one, other) for one in quiet for other in busy)
    assert not overlap(*quiet)
