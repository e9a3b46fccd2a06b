"""Files that several tests read, converted once a session: a conversion takes ten seconds and more."""

from __future__ import annotations

import pytest

from edgekd.backends.source import Source
from tests.backends.executorch.networks import SHAPE, Exported, images, network, trained_int8
from tests.backends.litert.writing import need_environment, write


@pytest.fixture(scope="session")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    need_environment()
    return write(tmp_path_factory.mktemp("fp32"), Source(network(), SHAPE, metadata={"labels": "ä,b,c,d"}))


@pytest.fixture(scope="session")
def fp16(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    need_environment()
    return write(tmp_path_factory.mktemp("fp16"), Source(network(), SHAPE, precision="fp16"))


@pytest.fixture(scope="session")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    need_environment()
    module = trained_int8(network(), images())
    return write(tmp_path_factory.mktemp("int8"), Source(module, SHAPE, precision="int8"))


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    need_environment()
    calibration = lambda: iter([images().numpy()])  # noqa: E731
    source = Source(network(), SHAPE, precision="int8", calibration=calibration)
    return write(tmp_path_factory.mktemp("native"), source)
