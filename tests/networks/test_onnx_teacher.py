"""An ONNX graph as a teacher: its logits, its limits, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgekd.core.errors import ModelError
from edgekd.networks.model import build_model, load_model, save_model
from edgekd.networks.onnx_teacher import OnnxTeacher
from edgekd.networks.tap import TapRecorder
from tests.networks.specs import small_spec

WEIGHT = np.random.default_rng(0).standard_normal((64, 3)).astype(np.float32)


def graph(path: Path, batch: str | int = "batch", classes: int = 3, channels: int = 1) -> Path:
    """Flatten and one matrix product."""
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, channels, 8, 8])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, classes])]
    weight = numpy_helper.from_array(np.resize(WEIGHT, (64 * channels, classes)), "weight")
    made = helper.make_graph(nodes, "teacher", inputs, outputs, [weight])
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, str(path))
    return path


def teacher(path: Path) -> OnnxTeacher:
    return OnnxTeacher(path, num_classes=3, in_channels=1)


X = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("batch", ["batch", 1, 2, 8])
def test_it_gives_the_graphs_logits_for_any_batch(tmp_path: Path, batch: str | int) -> None:
    logits = teacher(graph(tmp_path / "t.onnx", batch))(X)
    np.testing.assert_allclose(logits.numpy(), X.flatten(1).numpy() @ WEIGHT, rtol=1e-4, atol=1e-5)


def test_logits_are_its_only_tap(tmp_path: Path) -> None:
    module = teacher(graph(tmp_path / "t.onnx"))
    with TapRecorder(module, ["logits"]) as values:
        assert torch.equal(module(X), values["logits"])
    with pytest.raises(ModelError, match="choices: logits"):
        TapRecorder(module, ["stage1"])


def test_a_gradient_through_it_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no gradient"):
        teacher(graph(tmp_path / "t.onnx"))(X.clone().requires_grad_())


def test_copies_work(tmp_path: Path) -> None:
    module = teacher(graph(tmp_path / "t.onnx"))
    assert torch.equal(copy.deepcopy(module)(X), module(X))


@pytest.mark.parametrize(
    ("classes", "channels", "message"), [(4, 1, r"not \[B, 3\] logits"), (3, 3, "takes 3 channels, not 1")]
)
def test_other_ends_are_refused(tmp_path: Path, classes: int, channels: int, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        teacher(graph(tmp_path / "t.onnx", classes=classes, channels=channels))


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x0a" + b"\xff" * 40])
def test_rubbish_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.onnx").write_bytes(content)
    with pytest.raises(ModelError):
        teacher(tmp_path / "t.onnx")


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        teacher(tmp_path / "t.onnx")


def external(path: Path, location: str) -> Path:
    """The graph with its weight in a file of its own, named `location`."""
    model = onnx.load(str(graph(path)))
    weight = model.graph.initializer[0]
    (path.parent / "data.bin").write_bytes(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    entry = weight.external_data.add()
    entry.key, entry.value = "location", location
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data_beside_the_graph_is_read(tmp_path: Path) -> None:
    expected = teacher(graph(tmp_path / "whole.onnx"))(X)
    assert torch.equal(teacher(external(tmp_path / "t.onnx", "data.bin"))(X), expected)


@pytest.mark.parametrize("location", ["../data.bin", "/etc/passwd", "a/../../data.bin"])
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "data.bin").write_bytes(WEIGHT.tobytes())
    with pytest.raises(ModelError, match="outside its folder"):
        teacher(external(folder / "t.onnx", location))


def test_a_link_that_leads_outside_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(WEIGHT.tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(ModelError, match="outside its folder"):
        teacher(external(folder / "t.onnx", "link.bin"))


def test_absent_external_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"`other\.bin` is not there"):
        teacher(external(tmp_path / "t.onnx", "other.bin"))


def test_as_a_model_it_is_stored_with_its_files(tmp_path: Path) -> None:
    source, folder = tmp_path / "source", tmp_path / "model"
    source.mkdir()
    external(source / "t.onnx", "data.bin")
    model = build_model(small_spec("onnx", {"file": "t.onnx"}), files_root=source)
    save_model(folder, model)
    (source / "t.onnx").unlink()
    assert torch.equal(load_model(folder).module(X), model.module(X))
