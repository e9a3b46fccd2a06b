"""What every test gets: real data only through EDGEKD_DATA, one thread, no telemetry, no leaks.

On several workers (`-n auto --dist loadfile`) a test marked `quiet` runs while all others pause.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Nothing here asserts a time that a neighbor could spoil, so no worker waits for another one's timing.
os.environ["EDGEKD_LEASE_DIR"] = tempfile.mkdtemp(prefix="edgekd-test-lease-")
atexit.register(shutil.rmtree, os.environ["EDGEKD_LEASE_DIR"], ignore_errors=True)


@pytest.fixture
def real_data() -> Path:
    """The folder of real data sets; skips where EDGEKD_DATA does not name one."""
    value = os.environ.get("EDGEKD_DATA")
    if not value or not Path(value).is_dir():
        pytest.skip("EDGEKD_DATA names no folder of real data")
    return Path(value)


@pytest.fixture(autouse=True)
def _environment_is_left_alone() -> Iterator[None]:
    before, folder = _own_variables(), Path.cwd()
    yield
    assert _own_variables() == before, "the test changed environment variables"
    assert Path.cwd() == folder, "the test changed the working folder"


def _own_variables() -> dict[str, str]:
    """All but what pytest counts with, and what OpenMP and torch._dynamo set when first imported."""
    foreign = ("PYTEST_CURRENT_TEST", "TORCHINDUCTOR_CACHE_DIR")
    return {k: v for k, v in os.environ.items() if k not in foreign and not k.startswith("KMP_")}


# ---- Several workers -----------------------------------------------------------------------------


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that no worker is left alone with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Around set-up and the time limit, too: waiting for quiet is not the test's time."""
    if not hasattr(item.config, "workerinput"):
        return (yield)
    alone = item.get_closest_marker("quiet") is not None
    with _room(Path(item.config.option.basetemp).parent, alone=alone):
        return (yield)


@contextmanager
def _room(folder: Path, *, alone: bool) -> Iterator[None]:
    """Tests share the room, or one has it alone. Who waits for it holds the door, so that nobody enters."""
    with (folder / "room").open("w") as room:
        with (folder / "door").open("w") as door:
            fcntl.flock(door, fcntl.LOCK_EX)
            fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
