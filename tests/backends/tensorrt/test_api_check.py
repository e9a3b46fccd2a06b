"""The checker of calls, on classes of our own; on real wheels where `EDGEKD_TENSORRT_WHEELS` is set."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from edgekd.backends.tensorrt.api_check import check_wheel
from edgekd.backends.tensorrt.api_stand_ins import StandIn, parameters
from edgekd.core.errors import UsageError

pytestmark = pytest.mark.backends

FOLDER = os.environ.get("EDGEKD_TENSORRT_WHEELS", "")
WHEELS = sorted(Path(FOLDER).glob("tensorrt_cu*_bindings-*.whl")) if FOLDER else []


CALLED = {
    "Builder.build_serialized_network",
    "Runtime.deserialize_cuda_engine",
    "ICudaEngine.create_execution_context",
    "IExecutionContext.execute_async_v3",
    "IExecutionContext.profiler=",
    "EngineInspector.get_engine_information",
}


class Config:
    """Stands for a class of pybind11, whose signatures are in docstrings."""

    @property
    def level(self) -> int:
        return 0

    @level.setter
    def level(self, value: int) -> None: ...

    @property
    def fixed(self) -> int:
        return 0

    def set_limit(self) -> None:
        """set_limit(self: x.Config, pool: x.Pool, size: int, exact: bool = False) -> None"""


def test_known_names_and_signatures_pass_and_are_noted() -> None:
    calls: list[str] = []
    config = StandIn(Config, calls)
    config.level = 3
    config.set_limit(1, 2)
    config.set_limit(1, size=2, exact=True)
    assert calls == ["Config.level=", "Config.set_limit", "Config.set_limit"]


def test_an_unknown_name_is_an_attribute_error() -> None:
    config = StandIn(Config, [])
    with pytest.raises(AttributeError):
        config.missing()
    with pytest.raises(AttributeError):
        config.missing = 1
    with pytest.raises(AttributeError):
        StandIn(Config, [], missing=1)


def test_what_cannot_be_set_or_does_not_fit_is_a_type_error() -> None:
    config = StandIn(Config, [])
    with pytest.raises(TypeError, match="cannot be set"):
        config.fixed = 1
    for arguments, named in (((1,), {}), ((1, 2, 3, 4), {}), ((1, 2), {"other": 1}), ((1, 2), {"size": 1})):
        with pytest.raises(TypeError, match="set_limit takes"):
            config.set_limit(*arguments, **named)


def test_parameters_are_split_outside_brackets() -> None:
    found = parameters("self: a.B, shape: tuple[int, int], cache: Dict[str, int] = {}")
    assert found == [("shape", True), ("cache", False)]


def test_a_file_that_is_no_wheel_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.whl").write_bytes(b"no wheel")
    with pytest.raises(UsageError, match="cannot be checked"):
        check_wheel(tmp_path / "a.whl")


@pytest.mark.skipif(not WHEELS, reason="set EDGEKD_TENSORRT_WHEELS to a folder of bindings wheels")
@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
@pytest.mark.parametrize("wheel", WHEELS, ids=lambda wheel: wheel.name.split("-")[1])
def test_every_call_of_the_runtime_is_in_the_real_bindings(wheel: Path) -> None:
    if f"cp{sys.version_info.major}{sys.version_info.minor}" not in wheel.name:
        pytest.skip("a wheel for another Python")
    report = check_wheel(wheel)
    assert {path: found for path, found in report["paths"].items() if "error" in found} == {}
    assert not CALLED - set(report["paths"]["plain"]["names"])
    refused = {path for path, found in report["paths"].items() if "refused" in found}
    assert refused == ({"SAME_COMPUTE_CAPABILITY"} if report["version"].startswith("10.3") else set())
