"""The exported file: valid, small, dynamic in the batch, and the same bytes for the same network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import edgekd
from edgekd.backends.onnx import direct
from edgekd.backends.onnx.export import BATCH, INPUT, IR_VERSION, OPSET, OUTPUT, export
from edgekd.backends.source import Source
from edgekd.core.digest import of_file
from edgekd.core.errors import ModelError, StoreError
from edgekd.networks.resnet_cifar import resnet_cifar

# torch's compiler, which torch.export imports, sets this; set before, no test seems to do it.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/torchinductor_tests")

SHAPE = (3, 12, 12)

EXPORT_SOURCE = """
import torch
from edgekd.backends.onnx.export import export
from edgekd.backends.source import Source
from edgekd.networks.resnet_cifar import resnet_cifar
from edgekd.quant.prepare import calibrate, finalize, prepare
from edgekd.quant.settings import QuantSettings

def export_both(folder):
    torch.manual_seed(0)
    network = resnet_cifar(num_classes=4, in_channels=3, depth=8, width=0.25).eval()
    x = torch.rand(4, 3, 12, 12)
    quantized = prepare(network, QuantSettings(), x)
    calibrate(quantized, [x])
    finalize(quantized)
    export(Source(network, (3, 12, 12)), folder / "fp32.onnx")
    export(Source(quantized, (3, 12, 12)), folder / "int8.onnx")
"""
EXPORT_IN_A_PROCESS = f"{EXPORT_SOURCE}\nfrom pathlib import Path\nexport_both(Path())"


def export_both(folder: Path) -> None:
    names: dict[str, Any] = {}
    exec(EXPORT_SOURCE, names)
    names["export_both"](folder)


def network() -> nn.Module:
    torch.manual_seed(0)
    return resnet_cifar(num_classes=4, in_channels=3, depth=8, width=0.25).eval()


def run(path: Path, x: Tensor) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run([OUTPUT], {INPUT: x.numpy()})[0])


@torch.no_grad()
def assert_same_output(module: nn.Module, path: Path, x: Tensor) -> None:
    expected = module(x).numpy()
    np.testing.assert_allclose(run(path, x), expected, rtol=0, atol=1e-4 * max(1e-3, np.abs(expected).max()))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_graph_computes_what_the_network_does_at_any_batch_size(count: int, tmp_path: Path) -> None:
    export(Source(network(), SHAPE), tmp_path / "a.onnx")
    assert_same_output(network(), tmp_path / "a.onnx", torch.randn(count, *SHAPE))


def test_ends_have_the_promised_names_and_shapes(tmp_path: Path) -> None:
    export(Source(network(), SHAPE), tmp_path / "a.onnx")
    graph = onnx.load(tmp_path / "a.onnx").graph
    ends = []
    for (value,) in (graph.input, graph.output):
        sizes = [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        ends.append((value.name, sizes))
    assert ends == [(INPUT, [BATCH, *SHAPE]), (OUTPUT, [BATCH, 4])]


def test_facts_describe_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    facts = export(Source(network(), SHAPE), path)
    assert facts["sha256"] == of_file(path)
    assert facts["size_bytes"] == path.stat().st_size
    model = onnx.load(path)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", OPSET)] == [("", facts["opset"])]
    assert model.ir_version == IR_VERSION == facts["ir_version"]
    assert sum(facts["operators"].values()) == len(model.graph.node)


def test_same_network_gives_the_same_bytes_twice_in_one_process(tmp_path: Path) -> None:
    digests = {export(Source(network(), SHAPE), tmp_path / name / "a.onnx")["sha256"] for name in ("x", "y")}
    assert len(digests) == 1


def test_same_source_in_another_folder_and_process_gives_the_same_bytes(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "a longer" / "path"
    here.mkdir()
    export_both(here)
    shutil.copytree(Path(edgekd.__file__).parent, there / "edgekd")
    environment = {**os.environ, "PYTHONPATH": str(there), "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", EXPORT_IN_A_PROCESS]
    subprocess.run(command, check=True, cwd=there, env=environment, timeout=100)
    for name in ("fp32.onnx", "int8.onnx"):
        assert (here / name).read_bytes() == (there / name).read_bytes(), name


MACHINE = re.compile(rb"\.py|site-packages|/home/|/root/|/work/|stack_trace|pkg\.torch")
"""What would tell where, or from which source, a file was made."""


def test_file_names_no_path_and_no_source(tmp_path: Path) -> None:
    export(Source(network(), SHAPE), tmp_path / "a.onnx")
    assert not MACHINE.search((tmp_path / "a.onnx").read_bytes())


def test_exporting_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    export(Source(network(), SHAPE), tmp_path / "a.onnx")
    assert capfd.readouterr() == ("", "")


def test_module_is_left_in_its_mode(tmp_path: Path) -> None:
    module = network().train()
    module.get_submodule("layer1").eval()
    export(Source(module, SHAPE), tmp_path / "a.onnx")
    assert module.training and not module.get_submodule("layer1").training


def test_batch_norm_is_folded_into_the_convolution(tmp_path: Path) -> None:
    operators = export(Source(network(), SHAPE), tmp_path / "a.onnx")["operators"]
    assert "BatchNormalization" not in operators and operators["Conv"] == 7


def test_metadata_is_written_in_a_fixed_order(tmp_path: Path) -> None:
    first = {"labels": "a,b", "card": "x"}
    second = dict(reversed(first.items()))
    digests = {
        export(Source(network(), SHAPE, metadata=metadata), tmp_path / "a.onnx")["sha256"]
        for metadata in (first, second)
    }
    assert len(digests) == 1
    assert {entry.key: entry.value for entry in onnx.load(tmp_path / "a.onnx").metadata_props} == first


class Operations(nn.Module):
    """Every operation, and form of one, that is written without torch's exporter and that no network has."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=(1, 2), padding=(1, 0), dilation=1, groups=3)
        self.act = nn.ModuleList([nn.ReLU6(), nn.Hardswish(), nn.Hardsigmoid(), nn.SiLU(), nn.Sigmoid()])
        self.max, self.average = nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2, padding=1)
        self.uneven = nn.AvgPool2d(2, padding=1, count_include_pad=False)
        self.inplace, self.drop = nn.ReLU(inplace=True), nn.Dropout(0.5)
        self.linear, self.norm = nn.Linear(13, 4, bias=False), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        for act in self.act:
            x = x + act(x)
        x = self.max(x)
        x = torch.cat([self.average(x), self.uneven(x)], dim=1)
        x = nn.functional.pad(x, (1, 0, 0, 2))[:, 1:, 1::2, :-1]
        x = self.drop(self.inplace(x))
        parts = torch.cat([x.mean((2, 3)), x.mean((-1, -2), keepdim=True).flatten(1)], dim=1)
        return self.norm(self.linear(parts[:, :13]))  # type: ignore[no-any-return]


def test_every_form_of_operation_is_written_as_torch_computes_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Operations().eval()
    x = 3 * torch.randn(3, *SHAPE)
    with torch.no_grad():
        direct.write(torch.export.export(module, (x,), strict=False), OPSET, IR_VERSION)
    export(Source(module, SHAPE), tmp_path / "a.onnx")
    assert_same_output(module, tmp_path / "a.onnx", x)


def test_exporter_of_torch_gives_a_graph_with_the_same_output_and_as_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(Source(network(), SHAPE), tmp_path / "direct.onnx")
    monkeypatch.delitem(direct._HANDLERS, "aten.conv2d.default")
    export(Source(network(), SHAPE), tmp_path / "torch.onnx")
    x = torch.randn(3, *SHAPE)
    np.testing.assert_allclose(run(tmp_path / "torch.onnx", x), run(tmp_path / "direct.onnx", x), atol=1e-6)
    assert not MACHINE.search((tmp_path / "torch.onnx").read_bytes())


class Unusual(nn.Module):
    """Operations that only torch's exporter knows."""

    def forward(self, x: Tensor) -> Tensor:
        halves = x.mean((2, 3)).unfold(1, 2, 1)
        return torch.cumsum(halves.flatten(1), dim=1)


def test_operations_not_known_here_go_through_the_exporter_of_torch(tmp_path: Path) -> None:
    export(Source(Unusual(), SHAPE), tmp_path / "a.onnx")
    assert_same_output(Unusual(), tmp_path / "a.onnx", torch.randn(3, *SHAPE))


def test_value_that_is_changed_while_others_read_it_is_written_as_torch_computes_it(tmp_path: Path) -> None:
    class Changing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x.mean((2, 3))
            z = y.relu_()
            return y + z

    export(Source(Changing(), SHAPE), tmp_path / "a.onnx")
    assert_same_output(Changing(), tmp_path / "a.onnx", torch.randn(3, *SHAPE))


def test_network_that_fixes_the_batch_size_is_refused(tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(2, -1)

    with pytest.raises(ModelError):
        export(Source(Fixed(), SHAPE), tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()


def test_network_that_cannot_be_captured_is_refused(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(ModelError, match="cannot be exported"):
        export(Source(Branching(), SHAPE), tmp_path / "a.onnx")


def test_folder_that_cannot_be_written_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError):
        export(Source(network(), SHAPE), tmp_path / "file" / "a.onnx")
