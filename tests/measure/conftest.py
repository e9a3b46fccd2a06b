"""Graphs and a target that the measuring tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekd.targets.local import LocalTarget
from tests.measure import graphs


@pytest.fixture
def target() -> LocalTarget:
    return LocalTarget(name="local")


@pytest.fixture(scope="session")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return graphs.conv_net(tmp_path_factory.mktemp("graph") / "net.onnx")


@pytest.fixture(scope="session")
def evalset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return graphs.evaluation_set(tmp_path_factory.mktemp("evalset"))
