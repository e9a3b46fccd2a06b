"""The .tflite: the same numbers as torch, integers that carry over, the same bytes in any process."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="needs `pip install 'edgekd[litert]'`")

import torch
from torch import Tensor, nn

from edgekd.backends.litert import runtime
from edgekd.backends.litert.backend import BACKEND
from edgekd.backends.litert.baseline import one_node_graph
from edgekd.backends.litert.export import export
from edgekd.backends.source import Source
from edgekd.core.errors import DataError, ModelError
from tests.backends.executorch.networks import (
    SHAPE,
    Exported,
    images,
    network,
    settled,
    trained_int8,
    vision_transformer,
)
from tests.backends.litert.writing import agreement, errors, expected, logits, need_environment, write

pytestmark = [
    pytest.mark.backends,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore"),
]

ALL = ["fp32", "fp16", "int8", "native"]


@pytest.fixture(params=ALL)
def exported(request: pytest.FixtureRequest) -> Exported:
    found: Exported = request.getfixturevalue(request.param)
    return found


def test_fp32_computes_what_torch_does(fp32: Exported) -> None:
    assert errors(fp32, images()).max() <= 1e-5


def test_half_weights_cost_half_the_digits_and_compute_in_float32(fp16: Exported, fp32: Exported) -> None:
    assert errors(fp16, images()).max() <= 2e-3
    assert set(fp16.facts["precisions"]) == {"fp32"}
    assert fp16.facts["size_bytes"] < fp32.facts["size_bytes"]


@pytest.mark.parametrize("batch", [2, 4])
def test_several_images_at_once_answer_as_each_alone(exported: Exported, batch: int) -> None:
    """LiteRT itself, resized, answers for the first image only where a slice keeps one: by broadcasting."""
    assert exported.facts["batch"] == "any"
    x = images(8)
    np.testing.assert_allclose(
        logits(exported.path, x, batch=batch), logits(exported.path, x), rtol=0, atol=1e-6
    )


def test_facts_describe_the_file(exported: Exported) -> None:
    content = exported.path.read_bytes()
    assert exported.facts["sha256"] == hashlib.sha256(content).hexdigest()
    assert exported.facts["size_bytes"] == len(content)
    assert exported.facts["input"]["shape"] == [1, 12, 12, 3]
    assert exported.facts["operators"]["CONV_2D"] == 7
    assert exported.facts["converter"]["litert-torch"]


def test_the_file_says_its_labels_layout_and_batch(fp32: Exported) -> None:
    assert runtime.read(fp32.path).metadata == {"labels": "ä,b,c,d", "layout": "NHWC", "batch": "any"}


def test_no_path_of_this_machine_is_in_the_file(exported: Exported) -> None:
    content = exported.path.read_bytes()
    assert b"/edgekd/" not in content and os.fsencode(Path.home()) not in content


def test_trained_integers_are_carried_over(int8: Exported) -> None:
    """Only single codes may differ, by the rounding of halves: the graph is the one that was trained."""
    assert int8.facts["int8_form"] == "trained"
    found = errors(int8, images())
    assert found.mean() <= 1e-3
    assert agreement(int8, images()) >= 0.98


def test_every_weight_has_the_codes_that_were_trained(int8: Exported) -> None:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        str(int8.path), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    interpreter.allocate_tensors()
    weights = [one for one in interpreter.get_tensor_details() if len(one["shape"]) == 4]
    found = sorted(
        interpreter.get_tensor(one["index"]).tobytes()
        for one in weights
        if one["dtype"] is np.int8 and len(one["quantization_parameters"]["scales"]) > 1
    )
    layers = [layer for _, layer, _ in int8.module.layers() if isinstance(layer, nn.Conv2d)]  # type: ignore[operator]
    codes = [layer.weight_quantizer.codes(layer.weight).permute(0, 2, 3, 1) for layer in layers]
    assert found == sorted(one.contiguous().numpy().tobytes() for one in codes)


def test_everything_but_the_last_layer_of_the_trained_form_runs_in_int8(int8: Exported) -> None:
    assert int8.facts["precisions"] == {"int8": sum(int8.facts["operators"].values()) - 2, "fp32": 1}
    assert int8.facts["input"]["dtype"] == "int8"
    assert int8.facts["output"]["dtype"] == "float32"


def test_a_float_network_is_quantized_natively_with_int8_at_both_ends(native: Exported) -> None:
    assert native.facts["int8_form"] == "native-ptq"
    assert (native.facts["input"]["dtype"], native.facts["output"]["dtype"]) == ("int8", "int8")
    assert set(native.facts["precisions"]) == {"int8"}
    assert errors(native, images()).mean() <= 0.05


def test_nothing_that_has_weights_runs_outside_xnnpack(exported: Exported) -> None:
    assert runtime.load(str(exported.path)).profile()["unexpected"] == []
    assert exported.facts["placement"][runtime.XNNPACK] > exported.facts["placement"][runtime.BUILT_IN]


EXPORT_IN_A_PROCESS = """
from pathlib import Path
from edgekd.backends.source import Source
from tests.backends.executorch.networks import SHAPE, images, network, trained_int8
from tests.backends.litert.writing import write
write(Path({folder!r}), Source(trained_int8(network(), images()), SHAPE, precision="int8"))
"""


def test_another_process_writes_the_same_bytes(int8: Exported, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", EXPORT_IN_A_PROCESS.format(folder=str(tmp_path))]
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(__file__).parents[3])}
    subprocess.run(command, check=True, cwd=tmp_path, env=environment, timeout=900)
    assert (tmp_path / "network.tflite").read_bytes() == int8.path.read_bytes()


class _Bessel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


class _WithBessel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.strange = _Bessel()
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.strange(x).mean((1, 2)))  # type: ignore[no-any-return]


def test_an_operator_that_is_not_known_is_named_with_its_module(tmp_path: Path) -> None:
    need_environment()
    with pytest.raises(ModelError, match=r"bessel_j0.*strange.*_Bessel(.|\n)*fix: replace"):
        export(Source(_WithBessel().eval(), SHAPE), tmp_path / "a.tflite")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_refused_before_the_converter_is_asked(tmp_path: Path) -> None:
    float_network = network()
    for source in (
        Source(float_network, SHAPE, precision="int8"),
        Source(trained_int8(float_network, images()), SHAPE, precision="fp16"),
    ):
        with pytest.raises(ModelError):
            export(source, tmp_path / "a.tflite")


def test_calibration_without_images_is_refused(tmp_path: Path) -> None:
    need_environment()
    source = Source(network(), SHAPE, precision="int8", calibration=lambda: iter(()))
    with pytest.raises(DataError, match="no images"):
        export(source, tmp_path / "a.tflite")


def test_the_baseline_has_one_node(tmp_path: Path) -> None:
    path = tmp_path / "baseline.tflite"
    path.write_bytes(one_node_graph())
    graph = runtime.load(str(path), batch=3)
    assert graph.profile()["ops"] == {"MEAN": 1}
    assert graph.run(np.arange(3, dtype=np.float32).reshape(3, 1, 1, 1)).tolist() == [[0], [1], [2]]


def test_the_description_is_true() -> None:
    BACKEND.require()
    assert BACKEND.runtime.is_file()


def test_training_in_int8_keeps_more_than_calibration_by_the_converter(tmp_path: Path) -> None:
    """Of a network that has learned something, and against the network that was trained, in float."""
    need_environment()
    from tests.quant.digits import digits, train
    from tests.quant.digits import network as untrained

    data, module = digits(), untrained()
    train(module, data, steps=150, learning_rate=3e-3)
    quantized = trained_int8(module, data.train_images[:256])
    x, shape = data.test_images[:600], (1, 8, 8)
    (tmp_path / "trained").mkdir()
    trained = write(tmp_path / "trained", Source(quantized, shape, precision="int8"))
    calibration = lambda: iter([data.train_images[:256].numpy()])  # noqa: E731
    native = write(tmp_path, Source(module, shape, precision="int8", calibration=calibration))
    assert agreement(trained, x) >= 0.99
    against_float = [
        float((logits(one.path, x).argmax(1) == expected(module, x).argmax(1)).mean())
        for one in (trained, native)
    ]
    print(f"equal answers with the float network: trained {against_float[0]}, native {against_float[1]}")
    assert against_float[0] >= against_float[1] - 0.01


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_networks_of_torchvision(name: str, precision: Any, tmp_path: Path) -> None:
    need_environment()
    import torchvision.models

    make: Callable[..., nn.Module] = getattr(torchvision.models, name)
    torch.manual_seed(0)
    x = torch.rand(16, 3, 96, 96)
    module = settled(make(weights=None, num_classes=10), x)
    if precision == "int8":
        module = trained_int8(module, x)
    exported = write(tmp_path, Source(module, (3, 96, 96), precision=precision))
    found = errors(exported, x)
    print(
        f"{name} {precision}: max {found.max():.2g}, mean {found.mean():.2g}, {exported.facts['placement']}"
    )
    assert found.max() <= 1e-5 if precision == "fp32" else found.mean() <= 0.01
    assert runtime.load(str(exported.path)).profile()["unexpected"] == []


def test_a_vision_transformer_converts_and_takes_one_image(tmp_path: Path) -> None:
    """Its attention chooses query, key and value along the first axis, where else the images are."""
    need_environment()
    torch.manual_seed(0)
    x = torch.rand(8, 3, 32, 32)
    exported = write(tmp_path, Source(settled(vision_transformer(), x), (3, 32, 32)))
    assert errors(exported, x).max() <= 1e-5
    assert exported.facts["batch"] == 1
    with pytest.raises(runtime.ArtifactError, match="the batch is fixed to 1"):
        runtime.load(str(exported.path), batch=2)
