"""Engines, really built by TensorRT-RTX for another machine's GPU; what is wrong ends in a `BuildError`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

from edgekd.backends.tensorrt.build import BuildError, Shapes, build_engine
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


def usual(name: str = "input") -> Shapes:
    return {name: ((1, 4, 8, 8), (4, 4, 8, 8), (16, 4, 8, 8))}


@pytest.mark.parametrize("name", ["float_graph", "half_graph", "convolution", "half_scales"])
def test_an_engine_is_built_without_a_gpu_twice_the_same(name: str, trt: Any, tmp_path: Path) -> None:
    path = saved(name, tmp_path)
    first = build_engine(trt, path, compute_capabilities=TARGET)
    assert first and first == build_engine(trt, path, compute_capabilities=TARGET)


def test_a_dynamic_batch_takes_the_shapes_it_is_given(trt: Any, tmp_path: Path) -> None:
    assert build_engine(trt, dynamic(tmp_path), shapes=usual(), compute_capabilities=TARGET)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "the input `input` is dynamic"),
        ({"shapes": usual("other")}, "other: no dynamic input"),
        ({"shapes": usual(), "compute_capabilities": ("SM87",)}, "`SM87` is none of"),
        ({"shapes": usual(), "hardware_compatibility": "ALL"}, "`ALL` is none of"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    settings: dict[str, Any], message: str, trt: Any, tmp_path: Path
) -> None:
    with pytest.raises(BuildError, match=message):
        build_engine(trt, dynamic(tmp_path), **{"compute_capabilities": TARGET, **settings})


def test_a_refused_graph_names_the_node(trt: Any, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"QuantizeLinear_0: .*[Nn]on-zero zero point"):
        build_engine(trt, saved("zero_point", tmp_path), compute_capabilities=TARGET)


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x08" * 40])
def test_a_file_that_is_no_model_is_refused(content: bytes, trt: Any, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(BuildError):
        build_engine(trt, tmp_path / "a.onnx", compute_capabilities=TARGET)


def test_a_file_cut_short_is_refused(trt: Any, tmp_path: Path) -> None:
    path = saved("convolution", tmp_path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(BuildError):
        build_engine(trt, path, compute_capabilities=TARGET)


def test_a_missing_file_and_a_folder_are_refused(trt: Any, tmp_path: Path) -> None:
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(BuildError, match="there is no file"):
            build_engine(trt, path, compute_capabilities=TARGET)
