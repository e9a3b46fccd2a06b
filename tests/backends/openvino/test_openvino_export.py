"""The exported pair of files: right answers, the same bytes every time, never half of a pair."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

# By way of ours: `import openvino` itself would report to Google Analytics.
pytest.importorskip("edgekd.backends.openvino.silent", reason="the extra `openvino` is not installed")

from edgekd.backends.onnx import runtime as onnx_runtime
from edgekd.backends.onnx.export import export as export_onnx
from edgekd.backends.openvino import runtime
from edgekd.backends.openvino.export import Written, converted, export, write_pair
from edgekd.backends.openvino.silent import openvino
from edgekd.backends.source import Source
from edgekd.core.digest import of_bytes, of_file
from edgekd.core.errors import ModelError, StoreError
from edgekd.networks.resnet_cifar import resnet_cifar
from edgekd.quant.prepare import calibrate, finalize, prepare
from edgekd.quant.quantized_module import QuantizedModule
from edgekd.quant.settings import QuantSettings
from edgekd.testing.tiny_networks import IMAGE_SHAPE, TinyNet
from tests.quant.digits import SIZE, Digits, digits, network, train
from tests.quant.test_artifact import EXACT_BITS

pytestmark = pytest.mark.backends

# torch's compiler, which torch.export imports, sets this; set before, no test seems to do it.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/torchinductor_tests")

EXPORT_IN_A_PROCESS = """
import sys
from pathlib import Path
from tests.backends.openvino.test_openvino_export import export_all
export_all(Path(sys.argv[1]))
"""


def tiny() -> nn.Module:
    torch.manual_seed(0)
    return TinyNet().eval()


def quantized(module: nn.Module, images: Tensor) -> QuantizedModule:
    result = prepare(module, QuantSettings(weight_bits=EXACT_BITS), images[:2])
    calibrate(result, images.split(128))
    finalize(result)
    return result


def export_all(folder: Path) -> None:
    images = torch.rand(4, *IMAGE_SHAPE, generator=torch.Generator().manual_seed(0))
    metadata = {"labels": '["a", "b"]', "preprocess": "{}"}
    for precision in ("fp32", "fp16"):
        export(Source(tiny(), IMAGE_SHAPE, precision, metadata), folder / f"{precision}.xml")
    export(Source(quantized(tiny(), images), IMAGE_SHAPE, "int8", metadata), folder / "int8.xml")


def error_of(module: nn.Module, path: Path, images: Tensor) -> float:
    """Largest difference to torch, as a share of the largest logit."""
    with torch.no_grad():
        expected = module(images).numpy()
    actual = runtime.load(str(path), batch=len(images)).run(images.numpy())
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def settled_mobilenet() -> nn.Module:
    """Random weights, with batch-norm statistics of random images."""
    from torchvision.models import mobilenet_v2

    torch.manual_seed(0)
    module = mobilenet_v2(weights=None, num_classes=100).train()
    with torch.no_grad():
        for _ in range(3):
            module(torch.randn(4, 3, 96, 96))
    module.eval()
    return module  # type: ignore[no-any-return]


@pytest.mark.parametrize("batch", [1, 3])
def test_float32_computes_what_torch_does(batch: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    resnet = resnet_cifar(num_classes=4, in_channels=3, depth=8, width=0.25).eval()
    for name, module in {"tiny": tiny(), "resnet": resnet}.items():
        export(Source(module, IMAGE_SHAPE), tmp_path / f"{name}.xml")
        assert error_of(module, tmp_path / f"{name}.xml", torch.randn(batch, *IMAGE_SHAPE)) <= 1e-5, name


@pytest.mark.slow
def test_a_torchvision_network_computes_what_torch_does(tmp_path: Path) -> None:
    module, path, images = settled_mobilenet(), tmp_path / "a.xml", torch.randn(16, 3, 96, 96)
    export(Source(module, (3, 96, 96)), path)
    assert error_of(module, path, images[:2]) <= 1e-5
    profile = runtime.load(str(path)).profile()
    assert profile["ops"]["Convolution"] == 52
    assert profile["precisions"] == {"f32": sum(profile["ops"].values())}
    integers = quantized(module, images)
    assert export(Source(integers, (3, 96, 96), "int8"), path)["int8_operators"] == 53
    assert error_of(integers, path, images) <= 0.02
    profile = runtime.load(str(path)).profile()
    assert profile["unexpected"] == []
    assert profile["precisions"]["u8"] >= 53


def test_float16_halves_the_weights_and_changes_little(tmp_path: Path) -> None:
    facts = {p: export(Source(tiny(), IMAGE_SHAPE, p), tmp_path / f"{p}.xml") for p in ("fp32", "fp16")}
    full, half = (facts[p]["companions"][".bin"]["size_bytes"] for p in ("fp32", "fp16"))
    assert half <= 0.55 * full
    assert 0 < error_of(tiny(), tmp_path / "fp16.xml", torch.randn(4, *IMAGE_SHAPE)) <= 2e-3
    profile = runtime.load(str(tmp_path / "fp16.xml")).profile()
    assert set(profile["precisions"]) == {"f32"}, "computed in float32, as the default hint asks"
    assert profile["unexpected"] == []


@pytest.fixture(scope="module")
def data() -> Digits:
    return digits()


@pytest.fixture(scope="module")
def integers(data: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained and quantized ResNet-8, as int8.xml and int8.onnx."""
    module = network()
    train(module, data, steps=200, learning_rate=3e-3)
    folder = tmp_path_factory.mktemp("int8")
    source = Source(quantized(module, data.train_images[:512]), (1, SIZE, SIZE), "int8")
    facts = export(source, folder / "int8.xml")
    assert (facts["int8_form"], facts["int8_operators"]) == ("trained", 10)
    export_onnx(source, folder / "int8.onnx")
    return folder


def test_int8_agrees_with_the_same_graph_in_onnx_runtime(integers: Path, data: Digits) -> None:
    images = data.test_images[:2000].numpy()
    answers = []
    for graph in (
        runtime.load(str(integers / "int8.xml"), batch=100),
        onnx_runtime.load(str(integers / "int8.onnx"), batch=100),
    ):
        parts = [graph.run(part) for part in np.split(images, len(images) // 100)]
        answers.append(np.concatenate(parts).argmax(1))
    assert (answers[0] == answers[1]).mean() >= 0.99
    accuracies = [(answer == data.test_labels[:2000].numpy()).mean() for answer in answers]
    assert abs(accuracies[0] - accuracies[1]) <= 0.005


def test_int8_layers_are_executed_in_int8(integers: Path) -> None:
    profile = runtime.load(str(integers / "int8.xml")).profile()
    layers = [node for node in profile["nodes"] if node["op"] in ("Convolution", "FullyConnected")]
    assert len(layers) == 10
    assert {node["precision"] for node in layers} <= {"u8", "i8"}
    assert profile["unexpected"] == []


def test_int8_of_a_model_without_quantizers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"int8 was asked for.*\n.*quantize it first"):
        export(Source(tiny(), IMAGE_SHAPE, "int8"), tmp_path / "a.xml")
    assert list(tmp_path.iterdir()) == []


def test_facts_describe_both_files(tmp_path: Path) -> None:
    path, weights = tmp_path / "a.xml", tmp_path / "a.bin"
    facts = export(Source(tiny(), IMAGE_SHAPE), path)
    assert facts["sha256"] == of_file(path)
    assert facts["companions"][".bin"]["sha256"] == of_file(weights)
    assert facts["size_bytes"] == path.stat().st_size + weights.stat().st_size
    assert facts["input"] == {"name": "input", "shape": ["batch", *IMAGE_SHAPE], "dtype": "float32"}
    assert facts["operators"]["Convolution"] == 3
    assert "int8_form" not in facts


def test_same_network_gives_the_same_bytes_twice_and_in_another_process(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("once", "twice", "elsewhere")]
    for folder in folders[:2]:
        export_all(folder)
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", EXPORT_IN_A_PROCESS, str(folders[2])]
    subprocess.run(command, check=True, env=environment, timeout=300, cwd=Path(__file__).parents[3])
    files = sorted(path.name for path in folders[0].iterdir())
    assert files == [f"{p}.{end}" for p in ("fp16", "fp32", "int8") for end in ("bin", "xml")]
    for name in files:
        contents = {of_bytes((folder / name).read_bytes()) for folder in folders}
        assert len(contents) == 1, f"{name} differs"


def test_metadata_of_any_form_comes_back(tmp_path: Path) -> None:
    metadata = {"edgekd.labels": '["a", "<b>"]', "a b, [1]": "x & é\n\t\"'", "1": "", "ünï": "ok"}
    export(Source(tiny(), IMAGE_SHAPE, metadata=metadata), tmp_path / "a.xml")
    model = openvino.Core().read_model(tmp_path / "a.xml")
    assert {key: model.get_rt_info(["edgekd", key]).astype(str) for key in metadata} == metadata
    assert model.get_rt_info(["edgekd", "weights_sha256"]).astype(str) == of_file(tmp_path / "a.bin")


def test_an_unknown_operator_is_named(tmp_path: Path) -> None:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy"]
    node = helper.make_node("Unheard", ["x"], ["y"], domain="of.nobody")
    graph = helper.make_graph([node], "odd", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("of.nobody", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "odd.onnx")
    with pytest.raises(ModelError, match=r"OddNet: OpenVINO cannot convert.*Unheard"):
        converted(tmp_path / "odd.onnx", "OddNet")


def test_a_crash_between_the_two_names_leaves_no_xml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.xml"
    write_pair(path, Written(b"old", b"old weights"))
    replace, seen = os.replace, []

    def fail_at_the_second(source: Path, target: Path) -> None:
        seen.append(Path(target).suffix)
        if len(seen) == 2:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_at_the_second)
    with pytest.raises(StoreError, match="No space left"):
        write_pair(path, Written(b"new", b"new weights"))
    assert seen == [".bin", ".xml"]
    assert [file.name for file in tmp_path.iterdir()] == ["a.bin"]


def test_a_full_disk_before_that_leaves_the_old_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.xml"
    write_pair(path, Written(b"old", b"old weights"))

    def fail(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(StoreError):
        write_pair(path, Written(b"new", b"new weights"))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {
        "a.xml": b"old",
        "a.bin": b"old weights",
    }


def test_layers_are_called_as_their_modules(tmp_path: Path) -> None:
    export(Source(tiny(), IMAGE_SHAPE), tmp_path / "a.xml")
    names = [node["name"] for node in runtime.load(str(tmp_path / "a.xml")).profile()["nodes"]]
    assert [name for name in names if name.startswith("stages.")] == [
        f"stages.{number}.0" for number in range(3)
    ]
