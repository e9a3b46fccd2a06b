"""The device side of the ONNX backend: what it runs, counts and refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgekd.backends.onnx import runtime
from edgekd.backends.onnx.baseline import one_node_graph
from tests.measure import graphs


@pytest.fixture
def net(tmp_path: Path) -> Path:
    return graphs.conv_net(tmp_path / "net.onnx")


@pytest.mark.parametrize("batch", [1, 5])
def test_the_dynamic_batch_is_fixed(net: Path, batch: int) -> None:
    graph = runtime.load(str(net), batch=batch)
    assert graph.input_shape == (batch, 3, 8, 8)
    assert graph.run(np.zeros(graph.input_shape, graph.dtype)).shape == (batch, 4)


def test_threads_are_those_asked_for(net: Path) -> None:
    options = runtime.load(str(net), threads=2)._session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)


def test_fused_int8_kernels_are_counted_exactly(tmp_path: Path) -> None:
    profile = runtime.load(str(graphs.quantized_net(tmp_path / "q.onnx"))).profile()
    assert profile["ops"]["QLinearConv"] == 1
    assert "Conv" not in profile["ops"]
    assert profile["unexpected"] == []
    assert sum(profile["ops"].values()) == sum(profile["placement"].values()) == len(profile["nodes"])


def test_profiling_leaves_no_file(net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(tmp_path)
    runtime.load(str(net)).profile()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_kernel_on_another_provider_is_unexpected() -> None:
    args = {"op_name": "Conv", "provider": "CPUExecutionProvider"}
    events = [
        {"cat": "Node", "name": "stem_kernel_time", "dur": 5, "args": args},
        {"cat": "Session", "name": "model_run", "dur": 9, "args": {}},
    ]
    found = runtime.summarize(events, "CUDAExecutionProvider")
    assert found["unexpected"] == ["stem (Conv) ran on CPUExecutionProvider"]
    assert runtime.summarize(events, "CPUExecutionProvider")["unexpected"] == []


def test_an_absent_provider_is_refused_not_replaced(net: Path) -> None:
    with pytest.raises(runtime.FallbackError, match="NoSuchProvider"):
        runtime.load(str(net), options={"providers": ["NoSuchProvider", "CPUExecutionProvider"]})


def test_the_baseline_has_one_node(tmp_path: Path) -> None:
    path = tmp_path / "baseline.onnx"
    path.write_bytes(one_node_graph())
    assert runtime.load(str(path)).profile()["ops"] == {"Relu": 1}


def test_versions_name_the_runtime() -> None:
    assert set(runtime.versions()) == {"onnxruntime", "build", "providers", "numpy"}


def test_telemetry_is_off_before_the_runtime_is_imported() -> None:
    script = "import edgekd.backends.onnx.runtime, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "0"}
    finished = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert finished.stdout.strip() == "1"


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_graph_is_refused(net: Path, share: float) -> None:
    content = net.read_bytes()
    net.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(runtime.ArtifactError):
        runtime.load(str(net))


@pytest.mark.parametrize(
    "content",
    [
        b"\xff" * 64,
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"PK\x03\x04" + bytes(60),
        b"<html></html>",
        b"\x08\x0a",
        bytes(100),
    ],
)
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(runtime.ArtifactError):
        runtime.load(str(path))


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.onnx"):
        with pytest.raises(runtime.ArtifactError, match="there is no file"):
            runtime.load(str(path))


def test_endless_nesting_is_refused(tmp_path: Path) -> None:
    """A graph in an attribute of a node of a graph, and so on: refused before the stack is at its end."""
    message = b""
    for step in range(600):
        tag = {0: b"\x32", 1: b"\x2a", 2: b"\x0a"}[step % 3]
        size, encoded = len(message), b""
        while size > 127:
            encoded += bytes([size & 127 | 128])
            size >>= 7
        message = tag + encoded + bytes([size]) + message
    path = tmp_path / "deep.onnx"
    size, encoded = len(message), b""
    while size > 127:
        encoded += bytes([size & 127 | 128])
        size >>= 7
    path.write_bytes(b"\x3a" + encoded + bytes([size]) + message)
    with pytest.raises(runtime.ArtifactError, match="nested deeper"):
        runtime.check_file(path)


def _move_out(tensor: TensorProto, location: str) -> None:
    tensor.data_location = TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    tensor.external_data.add(key="location", value=location)


def _in_an_initializer(model: onnx.ModelProto, location: str) -> None:
    _move_out(model.graph.initializer[0], location)


def _in_a_constant(model: onnx.ModelProto, location: str) -> None:
    node = helper.make_node(
        "Constant", [], ["k"], value=onnx.numpy_helper.from_array(np.zeros(4, np.float32))
    )
    _move_out(node.attribute[0].t, location)
    model.graph.node.insert(0, node)


def _in_a_branch(model: onnx.ModelProto, location: str) -> None:
    tensor = onnx.numpy_helper.from_array(np.zeros(4, np.float32), "hidden")
    _move_out(tensor, location)
    out = helper.make_tensor_value_info("hidden", TensorProto.FLOAT, [4])
    branch = helper.make_graph([], "branch", [], [out], [tensor])
    node = helper.make_node("If", ["flag"], ["k"], then_branch=branch, else_branch=branch)
    model.graph.node.insert(0, node)


def _in_a_function(model: onnx.ModelProto, location: str) -> None:
    node = helper.make_node(
        "Constant", [], ["k"], value=onnx.numpy_helper.from_array(np.zeros(4, np.float32))
    )
    _move_out(node.attribute[0].t, location)
    opsets = [helper.make_opsetid("", 20)]
    model.functions.append(helper.make_function("own", "f", [], ["k"], [node], opsets))


PLACES = [_in_an_initializer, _in_a_constant, _in_a_branch, _in_a_function]


@pytest.mark.parametrize("hide", PLACES)
@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "a/../../secret", "link", "..\\secret"])
def test_external_data_outside_the_folder_is_refused(
    net: Path, hide: Callable[[onnx.ModelProto, str], None], location: str, tmp_path: Path
) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret").write_bytes(bytes(4096))
    (inside / "link").symlink_to(tmp_path / "secret")
    model = onnx.load(str(net))
    hide(model, location)
    (inside / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(runtime.ArtifactError, match="outside the model's folder"):
        runtime.load(str(inside / "net.onnx"))


def test_external_data_inside_the_folder_runs(net: Path, tmp_path: Path) -> None:
    expected = runtime.load(str(net)).run(np.ones((1, 3, 8, 8), np.float32))
    moved = tmp_path / "moved.onnx"
    onnx.save(
        onnx.load(str(net)), str(moved), save_as_external_data=True, location="w.bin", size_threshold=16
    )
    np.testing.assert_array_equal(runtime.load(str(moved)).run(np.ones((1, 3, 8, 8), np.float32)), expected)


def test_missing_external_data_is_refused(net: Path, tmp_path: Path) -> None:
    model = onnx.load(str(net))
    _in_an_initializer(model, "absent.bin")
    net.write_bytes(model.SerializeToString())
    with pytest.raises(runtime.ArtifactError, match="is missing"):
        runtime.load(str(net))


def _graph(shape: list[str | int], kind: int = TensorProto.FLOAT, inputs: int = 1) -> bytes:
    ends = [helper.make_tensor_value_info(f"input{i}", kind, shape) for i in range(inputs)]
    out = helper.make_tensor_value_info("logits", kind, shape)
    nodes = [
        helper.make_node("Sum" if kind == TensorProto.FLOAT else "Max", [e.name for e in ends], ["logits"])
    ]
    graph = helper.make_graph(nodes, "g", ends, [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_graph(["batch", "height"]), "only the dimension `batch`"),
        (_graph([8, 3]), "the batch is fixed to 8"),
        (_graph(["batch", 3], inputs=2), "exactly one input"),
        (_graph(["batch", 3], TensorProto.INT64), "not one of"),
    ],
)
def test_graphs_of_another_form_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "odd.onnx"
    path.write_bytes(content)
    with pytest.raises(runtime.ArtifactError, match=message):
        runtime.load(str(path))
