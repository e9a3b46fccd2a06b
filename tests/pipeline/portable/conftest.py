"""The small portable run before and after it was measured, made once; tests work on copies."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edgekd.core.measurement import Measurement
from edgekd.pipeline.portable.folder import PortableRun
from edgekd.pipeline.remeasure import remeasure
from edgekd.store.store import Store
from tests.pipeline.portable.small_portable import DEVICES, made, opened, silent


@pytest.fixture(scope="session")
def unmeasured(tmp_path_factory: pytest.TempPathFactory) -> PortableRun:
    return made(tmp_path_factory.mktemp("portable"))


@pytest.fixture(scope="session")
def measured(
    unmeasured: PortableRun, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PortableRun, list[Measurement]]:
    """The run with its sessions on `local` and `pi5`, and what measuring returned."""
    place = tmp_path_factory.mktemp("measured")
    (place / "edgekd-devices.yaml").write_text(DEVICES)
    shutil.copytree(unmeasured.folder, place / "out")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        found = remeasure(Store(place / "store"), "out", None, None, None, silent)
    return opened(place / "out"), found


@pytest.fixture
def run(measured: tuple[PortableRun, list[Measurement]], tmp_path: Path) -> PortableRun:
    """A copy of the measured run that a test may spoil."""
    shutil.copytree(measured[0].folder, tmp_path / "out")
    return opened(tmp_path / "out")


@pytest.fixture(scope="session")
def twice(
    measured: tuple[PortableRun, list[Measurement]], tmp_path_factory: pytest.TempPathFactory
) -> PortableRun:
    """The measured run, its target `local` measured a second time."""
    place = tmp_path_factory.mktemp("twice")
    shutil.copytree(measured[0].folder, place / "out")
    remeasure(Store(place / "store"), str(place / "out"), ["local"], None, None, silent)
    return opened(place / "out")
