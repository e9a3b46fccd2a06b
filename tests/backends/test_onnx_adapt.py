"""Foreign graphs behind our door: the same answers, changed as little as possible, or a clear refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from edgekd.backends.onnx.adapt import Door, adapt
from edgekd.backends.onnx.anatomy import dissect
from edgekd.backends.onnx.runtime import load
from edgekd.core.errors import ModelError
from tests.backends.foreign_graphs import IMAGES, expected, graph


def adapted(path: Path, *, layout: Any = "nchw", output: str | None = None) -> tuple[Path, tuple[str, ...]]:
    anatomy = dissect(path)
    (source,) = anatomy.inputs
    chosen = next(port for port in anatomy.outputs if output in (None, port.name))
    out = path.parent / "out"
    out.mkdir()
    door = Door(source, layout, (6, 6), 3, chosen)
    return out / "m.onnx", adapt(path, anatomy, door, out / "m.onnx")


@pytest.mark.parametrize(
    "how",
    [
        {"shape": ["batch", 3, 6, 6]},
        {"shape": [1, 3, 6, 6]},
        {},
        {"shape": [None, 3, None, None]},
        {"shape": ["N", "H", "W", 3], "channels_last": True},
        {"shape": ["N", 6, 6, 3], "channels_last": True, "kind": TensorProto.UINT8},
        {"kind": TensorProto.UINT8},
        {"kind": TensorProto.DOUBLE},
        {"kind": TensorProto.FLOAT16},
        {"shape": ["N", 6, 6, 3], "channels_last": True, "kind": TensorProto.FLOAT16},
        {"outputs": ["pooled", "scores"]},
        {"flat": False},
        {"external": True},
    ],
    ids=str,
)
def test_a_graph_behind_our_door_answers_as_before(tmp_path: Path, how: dict[str, Any]) -> None:
    path = graph(tmp_path / "g.onnx", **how)
    layout = "nhwc" if how.get("channels_last") else "nchw"
    out, _ = adapted(path, layout=layout, output="scores" if how.get("flat", True) else None)
    ran = load(str(out), 1, 1)
    assert ran.input_shape == (1, 3, 6, 6)
    for image in IMAGES:
        np.testing.assert_allclose(
            ran.run(image[None].astype(ran.dtype)), expected(image[None]), rtol=2e-3, atol=2e-3
        )


def test_a_graph_that_fits_stays_byte_for_byte(tmp_path: Path) -> None:
    path = graph(tmp_path / "g.onnx", shape=["batch", 3, 6, 6])
    out, changes = adapted(path)
    assert changes == ()
    assert out.read_bytes() == path.read_bytes()


def test_what_is_changed_is_told(tmp_path: Path) -> None:
    path = graph(tmp_path / "g.onnx", shape=["N", 6, 6, 3], channels_last=True, kind=TensorProto.UINT8)
    _, changes = adapted(path, layout="nhwc")
    assert any("Cast to uint8" in change for change in changes)
    assert any("Transpose" in change and "times" in change for change in changes)


def test_batches_of_any_size_still_run_where_the_batch_was_dynamic(tmp_path: Path) -> None:
    out, _ = adapted(graph(tmp_path / "g.onnx"))
    np.testing.assert_allclose(load(str(out), 1, 5).run(IMAGES), expected(IMAGES), rtol=1e-5)


def test_a_larger_fixed_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="fixed to 8 images"):
        adapted(graph(tmp_path / "g.onnx", shape=[8, 3, 6, 6]))


def test_the_anatomy_tells_ports_operators_and_weights_beside(tmp_path: Path) -> None:
    path = graph(tmp_path / "g.onnx", outputs=["scores", "pooled"], external=True)
    found = dissect(path)
    assert [str(port) for port in found.inputs] == ["x: float32 ['N', 3, 'H', 'W']"]
    assert [port.name for port in found.outputs] == ["scores", "pooled"]
    assert found.operators == {"MatMul": 1, "ReduceMean": 1}
    assert found.external == ("w.bin",) * len(found.external)
    assert found.precision == "fp32"


def test_operators_inside_subgraphs_count(tmp_path: Path) -> None:
    branch = helper.make_graph(
        [helper.make_node("RandomNormalLike", ["scores"], ["b"])],
        "branch",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)],
    )
    condition = helper.make_node(
        "Constant", [], ["yes"], value=helper.make_tensor("t", TensorProto.BOOL, [], [1])
    )
    chosen = helper.make_node("If", ["yes"], ["c"], then_branch=branch, else_branch=branch)
    found = dissect(graph(tmp_path / "g.onnx", extra=[condition, chosen]))
    assert found.random_operators == ("RandomNormalLike",)


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "outside"])
def test_a_damaged_or_hostile_file_is_a_clear_error(tmp_path: Path, damage: str) -> None:
    path = graph(tmp_path / "g.onnx", external=damage == "outside")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    elif damage == "outside":
        path.write_bytes(path.read_bytes().replace(b"w.bin", b"../wb"))
    else:
        path.write_bytes(b"" if damage == "empty" else b"model.onnx\n")
    with pytest.raises(ModelError):
        dissect(path)
