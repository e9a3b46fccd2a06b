"""Networks as TensorRT takes them: linted, and where TensorRT-RTX is there, parsed and built by it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from pydantic import ValidationError

pytest.importorskip("torch", reason="needs `pip install 'edgekd[train]'`")

import torch

from edgekd.backends.source import Source
from edgekd.backends.tensorrt import ahead, kit
from edgekd.backends.tensorrt.backend import BACKEND
from edgekd.backends.tensorrt.export import NO_GPU, export, module_of
from edgekd.backends.tensorrt.qdq_lint import lint
from edgekd.core.errors import ModelError
from tests.backends.tensorrt import oracle
from tests.backends.tensorrt.graphs import MODEL_OPTIMIZER, SHAPE, images, network, others, quantized

pytestmark = [pytest.mark.backends, pytest.mark.timeout(600), pytest.mark.filterwarnings("ignore")]
PRECISIONS = ("fp32", "fp16", "int8")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """Precision -> file and facts."""
    found = {}
    for precision in PRECISIONS:
        module = quantized("tensorrt") if precision == "int8" else network()
        path = tmp_path_factory.mktemp(precision) / "model.onnx"
        source = Source(module, SHAPE, precision=precision, metadata={"labels": "a,b"})  # type: ignore[arg-type]
        found[precision] = (path, BACKEND.export(source, path))
    return found


@pytest.mark.parametrize("precision", PRECISIONS)
def test_nothing_is_found_in_what_we_export(precision: str, exported: dict[str, Any]) -> None:
    path, facts = exported[precision]
    assert lint(path) == [] and facts["findings"] == []
    assert facts["precision"] == precision and facts["opset"] == 20
    assert facts["size_bytes"] == path.stat().st_size


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_was_not_executed_is_said_in_those_words(precision: str, exported: dict[str, Any]) -> None:
    checks = exported[precision][1]["checks"]
    assert checks["tensorrt"] == NO_GPU == "not executed: no GPU"
    if not oracle.is_there():
        assert checks["tensorrt_rtx"].startswith("not executed: ")


@pytest.mark.skipif(not oracle.is_there(), reason=oracle.REASON)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_tensorrt_rtx_builds_it_and_sees_the_precision_that_the_file_has(
    precision: str, exported: dict[str, Any]
) -> None:
    path, facts = exported[precision]
    built = facts["checks"]["tensorrt_rtx"]
    assert built["engine_bytes"] > 0 and built["targets"] == ["SM89"]
    assert set(built["layers"].values()) == {precision}
    assert built["layers"] == kit.weighed(onnx.load(path))


def test_integers_are_those_that_were_trained(exported: dict[str, Any]) -> None:
    facts = exported["int8"][1]
    assert (facts["int8_form"], facts["int8_operators"]) == ("trained", 8)
    assert "int8_form" not in exported["fp32"][1]


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("fp16", 1e-2), ("int8", 1e-4)])
def test_the_kits_reference_is_what_torch_computes(
    precision: str, tolerance: float, exported: dict[str, Any]
) -> None:
    """int8: with its quantizers, so that only rounding at ties may differ."""
    module = quantized("tensorrt") if precision == "int8" else network()
    with torch.no_grad():
        expected = module(images()).numpy()
    found = kit.reference(exported[precision][0], images().numpy())
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.skipif("modelopt" not in others(), reason="needs nvidia-modelopt")
def test_the_reference_avoids_the_optimizer_that_spoils_half_precision(tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    onnx.save(MODEL_OPTIMIZER["int8 and half"](), path)
    with torch.no_grad():
        expected = network()(images()).numpy()
    found = kit.reference(path, images().numpy())
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Integers, and half precision around them."""
    path = tmp_path_factory.mktemp("half") / "model.onnx"
    options = {"float_layers": "fp16"}
    return path, BACKEND.export(Source(quantized("tensorrt"), SHAPE, precision="int8", options=options), path)


def test_integers_in_half_precision_are_those_of_the_float_file(
    half: tuple[Path, dict[str, Any]], exported: dict[str, Any]
) -> None:
    path, facts = half
    assert lint(path) == [] and facts["findings"] == []
    assert (facts["precision"], facts["float_layers"]) == ("int8", "fp16")
    assert exported["int8"][1]["float_layers"] == "fp32"
    kinds = {tensor.name: tensor.data_type for tensor in onnx.load(path).graph.initializer}
    assert TensorProto.FLOAT not in kinds.values()
    assert len(codes(path)) >= 8 and codes(path) == codes(exported["int8"][0])


def codes(path: Path) -> set[tuple[tuple[int, ...], bytes]]:
    """The weights' integers; the two files may hold them in another order."""
    stored = [numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer]
    return {(one.shape, one.tobytes()) for one in stored if one.dtype == np.int8 and one.ndim > 1}


def test_half_precision_around_integers_answers_as_the_student(half: tuple[Path, dict[str, Any]]) -> None:
    with torch.no_grad():
        expected = quantized("tensorrt")(images()).numpy()
    found = kit.reference(half[0], images().numpy())
    assert np.abs(found - expected).max() <= 0.02 * np.abs(expected).max()


@pytest.mark.skipif(not oracle.is_there(), reason=oracle.REASON)
def test_tensorrt_rtx_builds_integers_in_half_precision(half: tuple[Path, dict[str, Any]]) -> None:
    built = half[1]["checks"]["tensorrt_rtx"]
    assert set(built["layers"].values()) == {"int8"}
    assert built["layers"] == kit.weighed(onnx.load(half[0]))


def test_an_option_of_no_meaning_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="float_layers"):
        export(Source(network(), SHAPE, options={"float_layers": "fp8"}), tmp_path / "model.onnx")


def test_quantizers_of_another_runtime_are_refused_with_node_module_and_fix(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"before")
    with pytest.raises(ModelError) as error:
        export(Source(quantized("ort_x86"), SHAPE, precision="int8"), tmp_path / "model.onnx")
    told = str(error.value)
    assert "QuantizeLinear_17 at `" in told and "a zero point of" in told and "symmetric" in told
    assert "profile `tensorrt`" in told
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_bytes() == b"before"


def test_int8_without_quantizers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no operation of the model has int8 inputs and weights"):
        export(Source(network(), SHAPE, precision="int8"), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_same_network_gives_the_same_bytes(exported: dict[str, Any], tmp_path: Path) -> None:
    source = Source(network(), SHAPE, metadata={"labels": "a,b"})
    again = export(source, tmp_path / "model.onnx")
    assert again == exported["fp32"][1]


def test_a_node_is_placed_at_its_module(exported: dict[str, Any]) -> None:
    model = onnx.load(exported["int8"][0])
    assert module_of(model, "Conv_3") == "conv1"
    assert module_of(model, "QuantizeLinear_5") == "conv1"  # of its output
    assert module_of(model, "QuantizeLinear_0") is None  # of the image
    assert module_of(model, "none") is None


def test_a_refusal_of_the_builder_is_a_model_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not oracle.is_there():
        monkeypatch.setattr(ahead, "find_spec", lambda name: None)
        assert ahead.built_ahead(tmp_path / "a.onnx") == ahead.ABSENT
        return
    (tmp_path / "a.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match="tensorrt_rtx refuses the graph"):
        ahead.built_ahead(tmp_path / "a.onnx")


def test_the_baseline_is_taken(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(BACKEND.baseline_graph())
    assert lint(tmp_path / "a.onnx") == []
    with warnings.catch_warnings():
        answer = ahead.built_ahead(tmp_path / "a.onnx")
    assert answer == ahead.ABSENT or answer["engine_bytes"] > 0  # type: ignore[index]


def test_a_kit_is_written_of_every_precision(exported: dict[str, Any], tmp_path: Path) -> None:
    for precision, (path, _) in exported.items():
        manifest = kit.write_kit(path, images(2).numpy(), tmp_path / precision, precision)
        assert set(manifest["layers"].values()) == {precision}
