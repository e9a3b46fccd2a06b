"""Files that belong beside an artifact's file: pushed with it, weighed with it, and checked like it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgekd.backends.backend import Backend
from edgekd.backends.catalogue import BACKENDS
from edgekd.backends.onnx.backend import BACKEND as ONNX
from edgekd.core.errors import TargetError
from edgekd.core.registry import Entry
from edgekd.measure.device import Device, open_device
from edgekd.targets.local import LocalTarget
from tests.measure import graphs

OTHER: Backend = replace(ONNX, name="other", companions=(".weights",))
CONTENT = b"weights" * 1000


@pytest.fixture(autouse=True)
def another_backend() -> Iterator[None]:
    BACKENDS.add(Entry("other", f"{__name__}:OTHER", "ONNX Runtime, and a file beside"))
    yield
    BACKENDS._entries.pop("other")


@pytest.fixture
def both(graph: Path, tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    path.write_bytes(graph.read_bytes())
    path.with_suffix(".weights").write_bytes(CONTENT)
    return path


def asked(device: Device, path: Path, evalset: Path) -> None:
    entry = device.artifact(
        "net", path, backend="other", images=evalset / "images.npy", preprocess=graphs.PREPROCESS
    )
    device.call("accuracy", [entry], out="logits.npy", batch=1)


def test_they_are_pushed_under_the_stem_of_the_file_and_weighed_with_it(both: Path, evalset: Path) -> None:
    with open_device(LocalTarget(name="local")) as device:
        entry = device.artifact("net", both, backend="other")
        (beside,) = entry["beside"]
        assert Path(beside).stem == Path(entry["path"]).stem
        asked(device, both, evalset)
    assert OTHER.size_of(both) == both.stat().st_size + len(CONTENT)


def test_one_that_is_damaged_on_its_way_is_not_used(both: Path, evalset: Path) -> None:
    with open_device(LocalTarget(name="local")) as device:
        (beside,) = device.artifact("net", both, backend="other")["beside"]
        device.push(both, beside)  # something else under its name
        with pytest.raises(TargetError, match="arrived damaged"):
            asked(device, both, evalset)
