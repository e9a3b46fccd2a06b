"""Quick times and logits before the final session."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from edgekd.core.errors import ModelError, UsageError
from edgekd.measure.probes import Graph, device_facts, predict, smoke_latency, time_graphs
from edgekd.measure.protocol import Protocol, WarmUp
from edgekd.targets.local import LocalTarget
from tests.measure import graphs
from tests.measure.graphs import PREPROCESS

PROTOCOL = Protocol(
    name="tiny", min_duration_s=0.1, min_count=40, num_processes=2, warm_up=WarmUp(min_s=0.01, max_s=0.02)
)


@pytest.mark.quiet
def test_much_larger_graphs_take_longer(target: LocalTarget, graph: Path, tmp_path: Path) -> None:
    large = graphs.conv_net(tmp_path / "large.onnx", width=96, depth=4)
    found = time_graphs({"small": Graph(graph), "large": Graph(large)}, target, PROTOCOL, seed=0)
    assert found["large"].detail["min"] > found["small"].detail["min"]
    assert found["small"].p50_ms > 0
    assert found["small"].spread >= 0
    assert found["small"].device["versions"]["runtime_onnx"]["onnxruntime"] == onnxruntime.__version__


def test_emulated_times_rank_nothing(
    target: LocalTarget, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKD_EMULATED", "qemu")
    with pytest.raises(UsageError, match="rank nothing"):
        time_graphs({"g": Graph(graph)}, target, PROTOCOL.model_copy(update={"num_processes": 1}), seed=0)


def test_smoke_latency_of_one_graph_on_real_images(target: LocalTarget, graph: Path, evalset: Path) -> None:
    found = smoke_latency(graph, target, images=evalset / "images.npy", preprocess=PREPROCESS)
    assert found.p50_ms > 0
    assert found.detail["n"] >= 64


def test_predict_is_onnx_runtime_on_preprocessed_images(target: LocalTarget, graph: Path) -> None:
    images = np.random.default_rng(1).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"input": PREPROCESS.apply(images)})[0]
    np.testing.assert_allclose(predict(graph, images, PREPROCESS, target, batch=4), expected, atol=1e-5)


def test_predict_of_no_graph_is_a_model_error(target: LocalTarget, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x0a not a graph")
    with pytest.raises(ModelError):
        predict(tmp_path / "bad.onnx", np.zeros((1, 8, 8, 3), np.uint8), PREPROCESS, target)


def test_device_facts_name_target_and_machine(target: LocalTarget) -> None:
    facts = device_facts(target)
    assert facts["target"]["kind"] == "local"
    assert facts["cpu"]
    assert facts["versions"]["runtime_onnx"]["onnxruntime"] == onnxruntime.__version__
