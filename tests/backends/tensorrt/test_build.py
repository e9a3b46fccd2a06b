"""Engines, really built by TensorRT-RTX; what is wrong ends in an error that says it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from edgekd.backends.tensorrt.tensorrt_build import build_engine, logger_of
from edgekd.backends.tensorrt.tensorrt_file import ArtifactError
from edgekd.backends.tensorrt.tensorrt_settings import FallbackError, Settings
from tests.backends.tensorrt import oracle
from tests.backends.tensorrt.handmade import CASES, Builder

pytestmark = [
    pytest.mark.backends,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not oracle.is_there(), reason=oracle.REASON),
]
TARGET = ("SM89",)


@pytest.fixture(scope="module")
def trt() -> Any:
    import tensorrt_rtx

    return tensorrt_rtx


def saved(name: str, folder: Path) -> Path:
    onnx.save(CASES[name](), folder / "a.onnx")
    return folder / "a.onnx"


def dynamic(folder: Path) -> Path:
    b = Builder()
    model = b.model(b.node("Relu", [b.conv(b.qdq("input"), b.weight())]))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.save(model, folder / "a.onnx")
    return folder / "a.onnx"


def product(folder: Path) -> Path:
    b = Builder()
    weight = b.constant(b.random.normal(0, 1, (8, 8)).astype("float32"))
    onnx.save(b.model(b.node("MatMul", ["input", weight])), folder / "a.onnx")
    return folder / "a.onnx"


@pytest.mark.parametrize("name", ["float_graph", "half_graph", "convolution", "half_scales"])
def test_an_engine_is_built_without_a_gpu_twice_the_same(name: str, trt: Any, tmp_path: Path) -> None:
    path = saved(name, tmp_path)
    first = build_engine(trt, path, compute_capabilities=TARGET)
    assert first.engine and first == build_engine(trt, path, compute_capabilities=TARGET)


def test_a_dynamic_batch_is_built_for_the_sizes_it_is_given(trt: Any, tmp_path: Path) -> None:
    assert build_engine(trt, dynamic(tmp_path), batches=(1, 4, 16), compute_capabilities=TARGET).engine


def test_what_has_weights_is_named_with_its_precision(trt: Any, tmp_path: Path) -> None:
    for name, precision in (("float_graph", "fp32"), ("half_graph", "fp16"), ("convolution", "int8")):
        built = build_engine(trt, saved(name, tmp_path), compute_capabilities=TARGET)
        assert set(built.layers.values()) == {precision}


@pytest.mark.parametrize(
    ("targets", "settings", "message"),
    [
        (("SM87",), Settings(), "`SM87` is none of"),
        (TARGET, Settings(hardware_compatibility="ALL"), "`ALL` is none of"),
        (TARGET, Settings(dla_core=0), "DLA core 0 was asked for, there are 0 here"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    targets: tuple[str, ...], settings: Settings, message: str, trt: Any, tmp_path: Path
) -> None:
    with pytest.raises(FallbackError, match=message):
        build_engine(trt, dynamic(tmp_path), settings, compute_capabilities=targets)


def test_only_the_batch_may_be_dynamic(trt: Any, tmp_path: Path) -> None:
    model = onnx.load(dynamic(tmp_path))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(ArtifactError, match="only the batch may be dynamic"):
        build_engine(trt, tmp_path / "a.onnx", compute_capabilities=TARGET)


def test_a_build_that_fails_says_what_tensorrt_said_first(trt: Any, tmp_path: Path) -> None:
    log = logger_of(trt)
    with pytest.raises(ArtifactError, match="built no engine") as error:
        build_engine(trt, product(tmp_path), compute_capabilities=("SM75",), log=log)
    assert log.errors and log.errors[0] in str(error.value)  # Turing: no product in float32


def test_a_refused_graph_names_the_node(trt: Any, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"QuantizeLinear_0: .*[Nn]on-zero zero point"):
        build_engine(trt, saved("zero_point", tmp_path), compute_capabilities=TARGET)


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x08" * 40])
def test_a_file_that_is_no_model_is_refused(content: bytes, trt: Any, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(ArtifactError):
        build_engine(trt, tmp_path / "a.onnx", compute_capabilities=TARGET)


def test_a_file_cut_short_is_refused(trt: Any, tmp_path: Path) -> None:
    path = saved("convolution", tmp_path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ArtifactError):
        build_engine(trt, path, compute_capabilities=TARGET)


def test_a_missing_file_and_a_folder_are_refused(trt: Any, tmp_path: Path) -> None:
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(ArtifactError, match="there is no file"):
            build_engine(trt, path, compute_capabilities=TARGET)
