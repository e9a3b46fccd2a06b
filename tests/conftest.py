"""What every test gets: real data only through EDGEKD_DATA, one thread, no telemetry, no leaks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


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
