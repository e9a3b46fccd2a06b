"""The quantized network against its ONNX artifact: the same answers, from int8 kernels only."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from edgekd.backends.onnx.export import INPUT, OUTPUT, export
from edgekd.backends.source import Source
from edgekd.quant.prepare import calibrate, finalize, int8_kernels, int8_operations, prepare
from edgekd.quant.quantized_module import QuantizedModule
from edgekd.quant.settings import QuantSettings
from tests.quant.digits import SIZE, Digits, logits_of, network, train

HAS_VNNI = "vnni" in Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else False
EXACT_BITS = 8 if HAS_VNNI else 7
"""The widest weights that this machine's kernels add up exactly."""


def session(path: Path, optimized: Path | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(path: Path, images: Tensor) -> Tensor:
    opened = session(path)
    parts = [opened.run([OUTPUT], {INPUT: part.numpy()})[0] for part in images.split(256)]
    return torch.from_numpy(np.concatenate(parts))


def executed(path: Path, folder: Path) -> Counter[str]:
    """Operator -> number of nodes that ONNX Runtime runs."""
    session(path, folder / "optimized.onnx")
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def quantized(module: nn.Module, data: Digits, bits: int, steps: int) -> QuantizedModule:
    result = prepare(module, QuantSettings(weight_bits=bits), data.train_images[:2])
    calibrate(result, data.train_images[:512].split(128))
    if steps:
        train(result, data, steps=steps, learning_rate=1e-4)
    finalize(result)
    return result


@pytest.mark.parametrize("steps", [0, 20], ids=["post-training", "trained"])
def test_artifact_agrees_with_torch_on_at_least_2000_images(
    steps: int, trained: nn.Module, data: Digits, tmp_path: Path
) -> None:
    module = quantized(trained, data, EXACT_BITS, steps)
    export(Source(module, (1, SIZE, SIZE)), tmp_path / "int8.onnx")
    expected = logits_of(module, data.test_images)
    actual = run(tmp_path / "int8.onnx", data.test_images)
    assert len(expected) >= 2000
    agreement = (actual.argmax(1) == expected.argmax(1)).float().mean().item()
    accuracies = [(y.argmax(1) == data.test_labels).float().mean().item() for y in (actual, expected)]
    assert agreement >= 0.995
    assert abs(accuracies[0] - accuracies[1]) <= 0.002
    assert (actual - expected).abs().mean() < 0.01 * expected.std()


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_every_operation_becomes_its_int8_kernel(shortcut: str, data: Digits, tmp_path: Path) -> None:
    module = quantized(network(shortcut), data, EXACT_BITS, 0)
    export(Source(module, (1, SIZE, SIZE)), tmp_path / "int8.onnx")
    operators = executed(tmp_path / "int8.onnx", tmp_path)
    expected = int8_kernels(module)
    assert {name: operators[name] for name in expected} == expected
    assert not {"Conv", "FusedConv", "Gemm", "FusedGemm", "Add", "Relu", "ReduceMean"} & set(operators)


@pytest.mark.parametrize("profile", ["ort_x86", "tensorrt"])
def test_operations_are_told_by_kind_whatever_runs_them(profile: str, data: Digits) -> None:
    """A ResNet-8 has seven convolutions, with projections two more, three additions and a classifier."""
    settings = QuantSettings(profile=profile, weight_bits=7)
    found = int8_operations(prepare(network("B"), settings, data.train_images[:8]))
    assert (found["conv"], found["add"], found["linear"]) == (9, 3, 1)


class Blocks(nn.Module):
    """What ResNets do not have: ReLU6, depthwise, gate, concatenation, max pooling, leftover batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.clip = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6()
        self.depthwise, self.pool = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.MaxPool2d(2)
        self.squeeze, self.excite = nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1)
        self.gate, self.left_over = nn.Hardsigmoid(), nn.BatchNorm2d(16)
        self.head, self.classifier = nn.AvgPool2d(4), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.clip(self.norm(self.stem(x)))
        y = self.pool(self.depthwise(x))
        y = y * self.gate(self.excite(self.squeeze(y)))
        z = self.left_over(torch.cat([y, self.pool(x)], dim=1))
        return self.classifier(self.head(z).flatten(1))  # type: ignore[no-any-return]


def test_operations_of_other_networks_become_int8_kernels_too(data: Digits, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = quantized(Blocks().eval(), data, EXACT_BITS, 0)
    export(Source(module, (1, SIZE, SIZE)), tmp_path / "int8.onnx")
    operators = executed(tmp_path / "int8.onnx", tmp_path)
    expected = int8_kernels(module)
    assert expected == {
        "QLinearConv": 4,
        "QLinearGlobalAveragePool": 1,
        "QLinearMul": 1,
        "QLinearConcat": 1,
        "QLinearAveragePool": 1,
        "QGemm": 1,
    }
    assert {name: operators[name] for name in expected} == expected
    assert "Clip" not in operators
    images = data.test_images[:500]
    agreement = (run(tmp_path / "int8.onnx", images).argmax(1) == logits_of(module, images).argmax(1)).float()
    assert agreement.mean() >= 0.99


def test_weights_are_stored_as_int8(trained: nn.Module, data: Digits, tmp_path: Path) -> None:
    export(Source(quantized(trained, data, 8, 0), (1, SIZE, SIZE)), tmp_path / "int8.onnx")
    constants = onnx.load(tmp_path / "int8.onnx").graph.initializer
    large = [constant for constant in constants if len(constant.dims) > 1]
    assert len(large) == 10
    assert {constant.data_type for constant in large} == {onnx.TensorProto.INT8}


def test_every_constant_is_dequantized_with_a_zero_point(
    trained: nn.Module, data: Digits, tmp_path: Path
) -> None:
    """Without one, ONNX Runtime does not form QGemm."""
    export(Source(quantized(trained, data, 8, 0), (1, SIZE, SIZE)), tmp_path / "int8.onnx")
    nodes = onnx.load(tmp_path / "int8.onnx").graph.node
    assert all(len(node.input) == 3 for node in nodes if node.op_type.endswith("quantizeLinear"))


@pytest.mark.skipif(HAS_VNNI, reason="this machine has VNNI: 8-bit weights are exact")
def test_eight_bit_weights_saturate_without_vnni_and_seven_do_not(data: Digits, tmp_path: Path) -> None:
    """Why `weight_bits` exists: u8 x s8 products overflow int16 in `vpmaddubsw`."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.ReLU(), nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    nn.init.ones_(module[1].weight)
    images = torch.rand(256, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    errors = {}
    for bits in (8, 7):
        result = prepare(module.eval(), QuantSettings(weight_bits=bits), images[:2])
        calibrate(result, [images])
        finalize(result)
        export(Source(result, (1, SIZE, SIZE)), tmp_path / "int8.onnx")
        errors[bits] = (run(tmp_path / "int8.onnx", images) - logits_of(result, images)).abs().mean().item()
    assert errors[7] < 0.05 * errors[8]
