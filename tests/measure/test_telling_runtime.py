"""A runtime of several files that tells its engine and its computation alone: carried to the measurement."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekd.backends.backend import Backend
from edgekd.backends.catalogue import BACKENDS
from edgekd.backends.onnx.backend import BACKEND as ONNX
from edgekd.core.errors import TargetError
from edgekd.core.measurement import Measurement
from edgekd.core.registry import Entry
from edgekd.measure.device import open_device
from edgekd.measure.runner import Item
from edgekd.pipeline.session import Order
from edgekd.targets.local import LocalTarget
from tests.measure import graphs
from tests.measure.test_runner import ONE, Setup, find

TELLING: Backend = ONNX
COMPUTED = """
import time

from telling_clock import ms_since

open_graph = load

class Telling:
    def __init__(self, graph):
        self._graph, self.input_shape, self.dtype = graph, graph.input_shape, graph.dtype

    def run(self, x):
        self._last = x
        time.sleep(0.002)  # stands for the copies
        return self._graph.run(x)

    def compute_ms(self, runs):
        times = []
        for _ in range(runs):
            started = time.perf_counter_ns()
            self._graph.run(self._last)
            times.append(ms_since(started))
        return times

    def profile(self):
        return {**self._graph.profile(), "engine": "built: none was kept", "untold": ["Conv_3"]}

def load(path, **settings):
    return Telling(open_graph(path, **settings))
"""
CLOCK = """
import time

def ms_since(started):
    return (time.perf_counter_ns() - started) / 1e6
"""


@pytest.fixture(autouse=True)
def telling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "runtime.py").write_text(ONNX.runtime.read_text() + COMPUTED)
    (tmp_path / "telling_clock.py").write_text(CLOCK)
    backend = replace(
        ONNX,
        name="telling",
        runtime=tmp_path / "runtime.py",
        runtime_parts=(*ONNX.runtime_parts, tmp_path / "telling_clock.py"),
    )
    monkeypatch.setattr(f"{__name__}.TELLING", backend)
    BACKENDS.add(Entry("telling", f"{__name__}:TELLING", "ONNX Runtime, timed apart"))
    yield
    BACKENDS._entries.pop("telling")


def item(graph: Path, evalset: Path, backend: str) -> Item:
    made = graphs.item(f"net-{backend}", graph, evalset)
    return replace(made, subject=made.subject.model_copy(update={"backend": backend}))


def measured(folder: Path, graph: Path, evalset: Path) -> list[Measurement]:
    items = [item(graph, evalset, backend) for backend in ("onnx", "telling")]
    return Setup(items, folder, protocol=ONE).measure()


def test_host_to_host_and_the_computation_alone_stand_apart(
    tmp_path: Path, graph: Path, evalset: Path
) -> None:
    found = measured(tmp_path, graph, evalset)
    told = find(found, "latency_p50_ms", "net-telling")
    assert told.value is not None and told.value > 2
    assert 0 < told.detail["compute_p50_ms"] < told.value - 1.5
    assert len(told.detail["process_compute_p50_ms"]) == ONE.num_processes
    assert "compute_p50_ms" not in find(found, "latency_p50_ms", "net-onnx").detail


def test_where_the_engine_came_from_is_kept_with_the_answers(
    tmp_path: Path, graph: Path, evalset: Path
) -> None:
    found = measured(tmp_path, graph, evalset)
    detail = find(found, "accuracy", "net-telling").detail
    assert (detail["engine"], detail["untold"]) == ("built: none was kept", ["Conv_3"])
    assert "engine" not in find(found, "accuracy", "net-onnx").detail


def test_a_part_that_is_not_pushed_is_missed(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.TELLING", replace(TELLING, runtime_parts=ONNX.runtime_parts))
    with open_device(LocalTarget(name="local")) as device, pytest.raises(TargetError, match="telling_clock"):
        device.call("memory", [device.artifact("net", graph, backend="telling")], runs=1)


def test_a_session_is_another_with_another_part(graph: Path, evalset: Path) -> None:
    order = Order([item(graph, evalset, "telling")], [], "quick", graphs.CLASSES, 0, {})
    before = order.key
    part = TELLING.runtime_parts[-1]
    part.write_text(CLOCK + "# changed\n")
    assert order.key != before


@pytest.mark.parametrize(("opening_s", "ends"), [(0.0, True), (30.0, False)])
def test_what_takes_long_to_open_says_so_and_gets_the_time(
    opening_s: float, ends: bool, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = COMPUTED.replace("return Telling(", "time.sleep(3)\n    return Telling(")
    TELLING.runtime.write_text(ONNX.runtime.read_text() + slow)
    monkeypatch.setattr(f"{__name__}.TELLING", replace(TELLING, opening_s=opening_s))
    with open_device(LocalTarget(name="local")) as device:
        entry = device.artifact("net", graph, backend="telling")
        if ends:
            with pytest.raises(TargetError, match=r"its deadline of 2 s is over"):
                device.call("memory", [entry], runs=1, deadline_s=2.0)
            return
        answer = device.call("memory", [entry], runs=1, deadline_s=2.0)
    assert np.isfinite(answer["result"]["ms"]["load"]) and answer["result"]["ms"]["load"] > 2900
