from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.backends.onnx.adopt import adopt
from edgekd.backends.onnx.runtime import load
from edgekd.core.errors import ModelError

WEIGHT = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)


def graph(path: Path, shape: list[int | str], *, external: bool = False) -> Path:
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[0], 2])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(
        model,
        str(path),
        save_as_external_data=external,
        location="w.bin" if external else None,
        size_threshold=0,
    )
    return path


@pytest.mark.parametrize("external", [False, True])
def test_a_graph_with_any_batch_name_runs_in_our_runtime_and_gives_the_same(
    tmp_path: Path, external: bool
) -> None:
    source = graph(tmp_path / "g.onnx", ["N", 3, "H", "W"], external=external)
    (tmp_path / "out").mkdir()
    adopt(source, (3, 4, 4), tmp_path / "out" / "m.onnx")
    x = np.random.default_rng(1).normal(size=(1, 3, 4, 4)).astype(np.float32)
    expected = onnxruntime.InferenceSession(str(source)).run(None, {"x": x})[0]
    adopted = load(str(tmp_path / "out" / "m.onnx"), 1, 1)
    assert tuple(adopted.input_shape) == (1, 3, 4, 4)
    np.testing.assert_array_equal(adopted.run(x), expected)


def test_a_batch_of_one_stays_and_a_larger_fixed_batch_is_refused(tmp_path: Path) -> None:
    adopt(graph(tmp_path / "one.onnx", [1, 3, 4, 4]), (3, 4, 4), tmp_path / "m.onnx")
    assert load(str(tmp_path / "m.onnx"), 1, 1).input_shape[0] == 1
    with pytest.raises(ModelError, match="fixed to 8 images"):
        adopt(graph(tmp_path / "eight.onnx", [8, 3, 4, 4]), (3, 4, 4), tmp_path / "m.onnx")


def test_a_size_that_is_not_the_preprocessing_s_is_refused_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="preprocess"):
        adopt(graph(tmp_path / "g.onnx", ["N", 3, 8, 8]), (3, 4, 4), tmp_path / "m.onnx")


def test_a_truncated_graph_is_a_clear_error(tmp_path: Path) -> None:
    source = graph(tmp_path / "g.onnx", ["N", 3, 4, 4])
    source.write_bytes(source.read_bytes()[:40])
    with pytest.raises(ModelError, match="cut short"):
        adopt(source, (3, 4, 4), tmp_path / "m.onnx")
