"""Run folders for the report's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.report.synthetic import Synthetic


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run on one target; tests must not write into it."""
    return Synthetic(tmp_path_factory.mktemp("run") / "run").write()


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Write a run with other settings."""

    def make(**settings: Any) -> Path:
        return Synthetic(tmp_path / "run", **settings).write()

    return make
