"""The .pte: whole in XNNPACK's delegate, the same numbers as torch, the same bytes in any process."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("executorch", reason="needs `pip install 'edgekd[executorch]'`")

import torch
from torch import Tensor, nn

from edgekd.backends.executorch import runtime
from edgekd.backends.executorch.backend import BACKEND
from edgekd.backends.executorch.baseline import one_node_graph
from edgekd.backends.executorch.executorch_program import OUTSIDE
from edgekd.backends.executorch.export import export
from edgekd.backends.source import Source
from edgekd.core.errors import DataError, ModelError
from tests.backends.executorch.networks import (
    SHAPE,
    Exported,
    images,
    network,
    settled,
    trained_int8,
    write,
)

pytestmark = [
    pytest.mark.backends,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),
]


def logits(exported: Exported, x: Tensor) -> np.ndarray:
    graph = runtime.load(str(exported.path))
    return np.concatenate([graph.run(x[i : i + 1].numpy()) for i in range(len(x))])


@torch.no_grad()
def expected(module: nn.Module, x: Tensor) -> np.ndarray:
    return np.asarray(module(x).numpy())


def largest_error(exported: Exported, module: nn.Module, x: Tensor) -> float:
    """Of the largest logit."""
    wanted = expected(module, x)
    return float(np.abs(logits(exported, x) - wanted).max() / np.abs(wanted).max())


def agreement(exported: Exported, module: nn.Module, x: Tensor) -> float:
    return float((logits(exported, x).argmax(1) == expected(module, x).argmax(1)).mean())


def test_fp32_computes_what_torch_does(fp32: Exported) -> None:
    assert largest_error(fp32, fp32.module, images()) <= 1e-5


@pytest.mark.parametrize("name", ["fp32", "int8", "native"])
def test_facts_describe_the_file(name: str, request: pytest.FixtureRequest) -> None:
    exported: Exported = request.getfixturevalue(name)
    content = exported.path.read_bytes()
    assert exported.facts["sha256"] == hashlib.sha256(content).hexdigest()
    assert exported.facts["size_bytes"] == len(content)
    assert exported.facts["output"]["shape"] == [1, 4]
    assert exported.facts["batch"] == 1


@pytest.mark.parametrize("name", ["fp32", "int8", "native"])
def test_nothing_is_outside_of_one_delegate(name: str, request: pytest.FixtureRequest) -> None:
    facts = request.getfixturevalue(name).facts
    assert facts["outside"] == []
    assert facts["delegate_calls"] == 1


def test_trained_integers_are_carried_over(int8: Exported) -> None:
    """Only single codes may differ, by the rounding of halves: the graph is the one that was trained."""
    assert int8.facts["int8_form"] == "trained"
    wanted = expected(int8.module, images())
    difference = np.abs(logits(int8, images()) - wanted) / np.abs(wanted).max()
    assert difference.mean() <= 5e-3
    assert agreement(int8, int8.module, images()) >= 0.95


def test_every_convolution_of_the_trained_form_runs_in_int8(int8: Exported) -> None:
    nodes = runtime.read(int8.path).nodes
    convolutions = [precision for kind, precision in nodes if kind in ("Conv2d", "DepthwiseConv2d")]
    assert len(convolutions) == 7 + 2  # and the two shortcuts
    assert set(convolutions) == {"int8"}


def test_the_layer_whose_result_is_not_quantized_stays_in_float(int8: Exported) -> None:
    nodes = runtime.read(int8.path).nodes
    assert [precision for kind, precision in nodes if kind == "FullyConnected"] == ["fp32"]


def test_a_float_network_is_quantized_natively_and_says_so(native: Exported) -> None:
    assert native.facts["int8_form"] == "native-ptq"
    assert native.facts["precisions"].get("int8", 0) > 0
    wanted = expected(native.module, images())
    assert np.abs(logits(native, images()) - wanted).mean() <= 0.05 * np.abs(wanted).max()


EXPORT_IN_A_PROCESS = """
from pathlib import Path
from edgekd.backends.source import Source
from tests.backends.executorch.networks import SHAPE, images, network, trained_int8, write
write(Path({folder!r}), Source(trained_int8(network(), images()), SHAPE, precision="int8"))
"""


def test_another_process_writes_the_same_bytes(int8: Exported, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", EXPORT_IN_A_PROCESS.format(folder=str(tmp_path))]
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[3])}
    subprocess.run(command, check=True, cwd=tmp_path, env=environment, timeout=800)
    assert (tmp_path / "network.pte").read_bytes() == int8.path.read_bytes()


class _Sorting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 4)
        self.sorter = _Sort()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.sorter(x).mean((1, 2)))  # type: ignore[no-any-return]


class _Sort(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cumsum(x, 3)


def test_an_operator_outside_is_named_with_its_module(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cumsum.*sorter(.|\n)*allow_outside"):
        export(Source(_Sorting().eval(), SHAPE), tmp_path / "a.pte")
    assert list(tmp_path.iterdir()) == []


def test_an_operator_outside_may_be_allowed_and_is_told(tmp_path: Path) -> None:
    path, module = tmp_path / "a.pte", _Sorting().eval()
    facts = export(Source(module, SHAPE, options={"allow_outside": True}), path)
    assert [one for one in facts["outside"] if "cumsum" in one]
    graph, x = runtime.load(str(path)), images(1)
    np.testing.assert_allclose(graph.run(x.numpy()), expected(module, x), rtol=1e-4, atol=1e-5)
    profile, number = graph.profile(), sum(graph.program.operators.values())
    assert number > 0
    assert profile["placement"][OUTSIDE] == profile["precisions"][OUTSIDE] == number
    assert profile["outside"] == facts["outside"]
    assert profile["unexpected"] == []


def test_an_operator_outside_that_nobody_allowed_is_not_run(tmp_path: Path) -> None:
    path, module = tmp_path / "a.pte", _Sorting().eval()
    export(Source(module, SHAPE, options={"allow_outside": True}), path)
    content = path.read_bytes()
    assert content.count(b'"outside": "allowed"') == 1
    path.write_bytes(content.replace(b'"outside": "allowed"', b'"outside": "nowhere"'))
    with pytest.raises(runtime.FallbackError, match="cumsum"):
        runtime.load(str(path))
    assert [one for one in runtime.read(path).summary()["unexpected"] if "cumsum" in one]


def test_allowing_changes_nothing_where_xnnpack_takes_all(fp32: Exported, tmp_path: Path) -> None:
    facts = export(Source(fp32.module, SHAPE, options={"allow_outside": True}), tmp_path / "a.pte")
    assert facts["outside"] == []
    assert facts["precisions"] == fp32.facts["precisions"]


def test_what_cannot_be_exported_is_refused_before_anything_is_lowered(tmp_path: Path) -> None:
    float_network = network()
    trained = trained_int8(float_network, images())
    for source in (
        Source(float_network, SHAPE, precision="fp16"),
        Source(float_network, SHAPE, precision="int8"),
        Source(trained, SHAPE, precision="fp16"),
    ):
        with pytest.raises(ModelError):
            export(source, tmp_path / "a.pte")


def test_calibration_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images"):
        export(Source(network(), SHAPE, precision="int8", calibration=lambda: iter(())), tmp_path / "a.pte")


def test_the_baseline_has_one_node(tmp_path: Path) -> None:
    path = tmp_path / "baseline.pte"
    path.write_bytes(one_node_graph())
    assert runtime.load(str(path)).profile()["ops"] == {"Clamp": 1}


def test_the_description_is_true() -> None:
    BACKEND.require()
    assert BACKEND.runtime.is_file()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_mobilenet_v2_of_torchvision(precision: str, tmp_path: Path) -> None:
    from torchvision.models import mobilenet_v2

    torch.manual_seed(0)
    x = torch.rand(16, 3, 96, 96)
    module: nn.Module = settled(mobilenet_v2(weights=None, num_classes=10), x)
    if precision == "int8":
        module = trained_int8(module, x)
    exported = write(tmp_path, Source(module, (3, 96, 96), precision=precision))  # type: ignore[arg-type]
    assert exported.facts["outside"] == []
    if precision == "fp32":
        assert largest_error(exported, module, x) <= 1e-5
    else:
        wanted = expected(module, x)
        assert np.abs(logits(exported, x) - wanted).mean() <= 0.02 * np.abs(wanted).max()
