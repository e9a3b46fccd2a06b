"""bfloat16: asked for by the file, checked kernel by kernel, not measured where the processor has none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("edgekd.backends.openvino.silent", reason="the extra `openvino` is not installed")

from edgekd.backends.openvino import runtime
from edgekd.backends.openvino.export import export
from edgekd.backends.openvino.openvino_kernels import weighed_layers
from edgekd.backends.openvino.silent import openvino
from edgekd.backends.source import Precision, Source
from edgekd.core.errors import AbsentRuntimeError
from edgekd.core.preprocess import Preprocess
from edgekd.measure.further import open_rig
from edgekd.measure.layers import measure_layers
from edgekd.measure.probes import predict
from edgekd.measure.runner import Item
from edgekd.report.further import further_text
from edgekd.targets.local import LocalTarget
from edgekd.testing.backend_contract import network
from tests.measure import graphs
from tests.measure.test_further import TINY
from tests.measure.test_runner import ONE, Setup

pytestmark = pytest.mark.backends

SHAPE = (3, 8, 8)
PLAIN = Preprocess(size=(8, 8), mean=(0.5,) * 3, std=(0.25,) * 3)


def written(folder: Path, precision: Precision) -> Path:
    path = folder / f"{precision}.xml"
    facts = export(Source(network(), SHAPE, precision), path)
    assert facts["precision"] == precision
    return path


def has_bf16() -> bool:
    return bool(runtime._NATIVE_BF16 & runtime._x86_flags())


def test_the_file_says_that_it_is_for_bf16_and_is_the_float32_one_but_for_that(tmp_path: Path) -> None:
    path = written(tmp_path, "bf16")
    model = openvino.Core().read_model(path)
    assert model.get_rt_info(["edgekd", "inference_precision"]).astype(str) == "bf16"
    other = written(tmp_path, "fp32")
    assert path.with_suffix(".bin").read_bytes() == other.with_suffix(".bin").read_bytes()
    assert "inference_precision" not in other.read_text()


@pytest.mark.skipif(has_bf16(), reason="this processor has bfloat16")
def test_a_processor_without_it_is_said_to_have_none(tmp_path: Path) -> None:
    path = written(tmp_path, "bf16")
    with pytest.raises(runtime.Unavailable, match="this CPU has no bfloat16"):
        runtime.load(str(path))
    images = np.zeros((1, 8, 8, 3), np.uint8)
    with pytest.raises(AbsentRuntimeError) as caught:
        predict(path, images, PLAIN, LocalTarget(name="local"), backend="openvino")
    assert caught.value.what == "this CPU has no bfloat16"


@pytest.mark.skipif(not has_bf16(), reason="this processor has no bfloat16")
def test_a_processor_with_it_computes_every_layer_in_it(tmp_path: Path) -> None:
    graph = runtime.load(str(written(tmp_path, "bf16")))
    profile = graph.profile()
    assert profile["hint"] == "bf16" and profile["unexpected"] == []
    assert profile["precisions"]["bf16"] >= 8


def test_a_layer_that_ran_in_float32_instead_is_unexpected(tmp_path: Path) -> None:
    """As every layer of the same network here, where it was compiled for float32."""
    graph = runtime.load(str(written(tmp_path, "fp32")))
    nodes = graph.profile()["nodes"]
    layers = weighed_layers(graph._read())
    found = runtime.summarize(nodes, layers, "bf16")["unexpected"]
    assert len(found) == len(layers) == 8
    assert all(text.endswith("has weights for bf16 and ran in f32") for text in found)
    assert runtime.summarize(nodes, layers, "f32")["unexpected"] == []


def test_a_file_for_another_type_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "bf16")
    path.write_text(
        path.read_text().replace('inference_precision value="bf16"', 'inference_precision value="f8"')
    )
    with pytest.raises(runtime.ArtifactError, match="for 'f8'"):
        runtime.load(str(path))


@pytest.fixture
def item(tmp_path: Path) -> Callable[[Precision], Item]:
    evalset = graphs.evaluation_set(tmp_path / "evalset")

    def make(precision: Precision) -> Item:
        torch.manual_seed(0)
        made = graphs.item(f"net-{precision}", written(tmp_path, precision), evalset, precision)
        return replace(made, subject=made.subject.model_copy(update={"backend": "openvino"}))

    return make


@pytest.mark.skipif(has_bf16(), reason="this processor has bfloat16")
def test_its_row_is_not_measured_and_the_others_of_the_same_runtime_are(
    item: Callable[[Precision], Item], tmp_path: Path
) -> None:
    found = Setup([item("fp32"), item("bf16")], tmp_path / "run", protocol=ONE).measure()
    accuracy: dict[str, Any] = {one.subject.name: one for one in found if one.quantity == "accuracy"}
    assert accuracy["net-fp32"].value is not None
    assert accuracy["net-bf16"].value is None
    assert str(accuracy["net-bf16"].not_measured).endswith("this CPU has no bfloat16")


def test_times_of_kernels_are_called_means_for_openvino_keeps_no_others(
    item: Callable[[Precision], Item], tmp_path: Path
) -> None:
    with open_rig(LocalTarget(name="local"), TINY, tmp_path / "rig", lambda event: None, seed=5) as rig:
        rows = measure_layers(rig, item("fp32"))
    text = further_text([], [{"kind": "layers", "target": "local", "subject": "net", "rows": rows}])
    assert "the longest first (mean of 50 runs, for the runtime keeps no single ones):" in text
