"""A backend whose runtime is not on the target: its rows are not measured, and nothing else suffers.

The runtime is ONNX Runtime's own file but for its first line, which imports what is not installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from edgekd.backends.backend import Backend
from edgekd.backends.catalogue import BACKENDS
from edgekd.backends.onnx.backend import BACKEND as ONNX
from edgekd.core.errors import AbsentRuntimeError
from edgekd.core.measurement import Measurement
from edgekd.core.registry import Entry
from edgekd.measure.probes import device_facts, predict
from edgekd.measure.runner import Item
from edgekd.targets.local import LocalTarget
from tests.measure import graphs
from tests.measure.test_runner import ONE, Setup, find

LACKING: Backend = ONNX
REASON = "No module named 'not_there'"


@pytest.fixture(autouse=True)
def lacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    source = ONNX.runtime.read_text().replace(
        "import numpy as np\n", "import not_there\nimport numpy as np\n", 1
    )
    runtime = tmp_path / "runtime.py"
    runtime.write_text(source)
    assert "import not_there" in source
    monkeypatch.setattr(
        f"{__name__}.LACKING", replace(ONNX, name="lacking", runtime=runtime, title="Lacking")
    )
    BACKENDS.add(Entry("lacking", f"{__name__}:LACKING", "ONNX Runtime, but for what it imports"))
    yield
    BACKENDS._entries.pop("lacking")


def item(name: str, path: Path, evalset: Path, backend: str) -> Item:
    made = graphs.item(name, path, evalset)
    return replace(made, subject=made.subject.model_copy(update={"backend": backend}))


def measured(folder: Path, graph: Path, evalset: Path, *backends: str) -> tuple[Setup, list[Measurement]]:
    items = [item(f"net-{backend}", graph, evalset, backend) for backend in backends]
    setup = Setup(items, folder, protocol=ONE)
    return setup, setup.measure()


def test_all_but_the_size_is_not_measured_and_says_why(tmp_path: Path, graph: Path, evalset: Path) -> None:
    _, found = measured(tmp_path, graph, evalset, "onnx", "lacking")
    mine = [m for m in found if m.subject.name == "net-lacking" and m.quantity != "size_bytes"]
    assert len(mine) == 8 + 4
    assert {m.value for m in mine} == {None}
    assert all(f"`net-lacking` cannot run on this device: {REASON}" in (m.not_measured or "") for m in mine)
    assert find(found, "size_bytes", "net-lacking").value == graph.stat().st_size


def test_the_others_are_measured_but_not_against_it(tmp_path: Path, graph: Path, evalset: Path) -> None:
    _, found = measured(tmp_path, graph, evalset, "lacking", "onnx")
    for quantity in ("accuracy", "latency_p50_ms", "memory_bytes"):
        assert find(found, quantity, "net-onnx").value is not None  # type: ignore[arg-type]
    for quantity in ("accuracy_drop", "speedup"):
        paired = find(found, quantity, "net-onnx", "net-lacking")  # type: ignore[arg-type]
        assert (paired.value, REASON in (paired.not_measured or "")) == (None, True)


def test_a_session_in_which_nothing_can_run_still_tells_the_device(
    tmp_path: Path, graph: Path, evalset: Path
) -> None:
    setup, found = measured(tmp_path, graph, evalset, "lacking")
    assert find(found, "accuracy", "net-lacking").device["machine"]
    assert find(found, "latency_p50_ms", "net-lacking").value is None
    assert not (setup.folder / "session" / "local" / "latency.json").exists()


def test_it_is_asked_again_in_the_next_session(tmp_path: Path, graph: Path, evalset: Path) -> None:
    """What was absent is not remembered: somebody may install it and go on."""
    setup, _ = measured(tmp_path, graph, evalset, "lacking")
    LACKING.runtime.write_text(ONNX.runtime.read_text())
    assert find(setup.measure(), "accuracy", "net-lacking").value is not None


def test_what_is_needed_is_refused_and_what_is_further_is_told(target: LocalTarget) -> None:
    facts = device_facts(target, backends=["onnx"], further=["lacking"])
    assert facts["absent"] == {"lacking": REASON}
    assert "further" not in facts
    assert [*facts["versions"]] == ["runtime_onnx"]
    with pytest.raises(
        AbsentRuntimeError, match=r"Lacking cannot run on this device(.|\n)*name a target"
    ) as caught:
        device_facts(target, backends=["lacking"])
    assert caught.value.exit_code == 4


def test_a_broken_runtime_is_told_with_its_own_words(target: LocalTarget) -> None:
    source = ONNX.runtime.read_text().replace(
        "import numpy as np\n", "raise ImportError('libfancy.so.7: cannot open\\nmore')\n", 1
    )
    LACKING.runtime.write_text(source)
    facts = device_facts(target, backends=["onnx"], further=["lacking"])
    assert facts["absent"] == {"lacking": "importing it fails: libfancy.so.7: cannot open"}
    with pytest.raises(AbsentRuntimeError, match=r"libfancy(.|\n)*--force-reinstall --no-deps onnxruntime"):
        device_facts(target, backends=["lacking"])


def test_a_shared_library_that_is_gone_is_a_broken_runtime(target: LocalTarget) -> None:
    source = ONNX.runtime.read_text().replace(
        "import numpy as np\n", "import ctypes\nctypes.CDLL('libfancy.so.7')\n", 1
    )
    LACKING.runtime.write_text(source)
    facts = device_facts(target, backends=["onnx"], further=["lacking"])
    assert facts["absent"]["lacking"].startswith(
        "importing it fails: libfancy.so.7: cannot open shared object"
    )


OUT_OF_RANGE = f"onnxruntime {version('onnxruntime')} is out of the range >=99,<100"


@pytest.fixture
def unproven(lacking: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime under another name, of which other versions were proven."""
    monkeypatch.setattr(
        f"{__name__}.LACKING",
        replace(LACKING, runtime=ONNX.runtime, versions={"onnxruntime": ">=99,<100"}),
    )


def test_a_runtime_out_of_range_is_not_measured(
    unproven: None, tmp_path: Path, graph: Path, evalset: Path
) -> None:
    _, found = measured(tmp_path, graph, evalset, "onnx", "lacking")
    mine = [m for m in found if m.subject.name == "net-lacking" and m.quantity != "size_bytes"]
    assert {m.value for m in mine} == {None}
    assert all(m.not_measured and m.not_measured.endswith(OUT_OF_RANGE) for m in mine)
    assert find(found, "accuracy", "net-onnx").value is not None


def test_a_runtime_out_of_range_that_ships_ends_with_4(unproven: None, target: LocalTarget) -> None:
    assert device_facts(target, further=["lacking"])["absent"] == {"lacking": OUT_OF_RANGE}
    with pytest.raises(AbsentRuntimeError, match=r">=99,<100(.|\n)*fix: pip install 'onnxruntime") as caught:
        device_facts(target, backends=["lacking"])
    assert caught.value.exit_code == 4


def test_a_probe_says_so(target: LocalTarget, graph: Path) -> None:
    images = np.zeros((1, 8, 8, 3), np.uint8)
    with pytest.raises(AbsentRuntimeError, match="not_there"):
        predict(graph, images, graphs.PREPROCESS, target, backend="lacking")
