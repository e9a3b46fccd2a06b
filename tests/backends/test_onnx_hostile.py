"""Files that want to exhaust memory or time: refused at every door, and nothing is used up.

The doors: the audit's and the bench's look at a file, taking it over as a teacher, and the agent's run of it.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.backends.catalogue import BACKENDS
from edgekd.backends.onnx import runtime
from edgekd.backends.onnx.adopt import adopt
from edgekd.core.errors import ModelError
from edgekd.core.preprocess import Preprocess
from edgekd.measure.probes import predict
from edgekd.pipeline.audit_model import resolve
from edgekd.pipeline.audit_spec import AuditSpec
from edgekd.targets.local import LocalTarget

HUGE = 1 << 40
SIZE = Preprocess(size=(8, 8), mean=(0.0,) * 3, std=(1.0,) * 3)
Make = Callable[[], onnx.ModelProto]


def model(nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto]) -> onnx.ModelProto:
    """`nodes` make `big`, whose sum is added to the logits."""
    classifier = [
        helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0),
        helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "v"], ["scores"]),
        helper.make_node("Add", ["scores", "sum"], ["logits"]),
    ]
    made = helper.make_graph(
        [*nodes, *classifier],
        "graph",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4])],
        [*weights, numpy_helper.from_array(np.ones((3, 4), np.float32), "v")],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def tensor(dims: list[int], raw: bytes | None = None, kind: int = TensorProto.FLOAT) -> onnx.TensorProto:
    made = onnx.TensorProto(name="big", data_type=kind, dims=dims)
    if raw is not None:
        made.raw_data = raw
    return made


def constant(name: str, value: object, kind: type = np.int64) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value, kind), name)


def one_gigabyte_in_one_kilobyte() -> onnx.ModelProto:
    return model([], [tensor([1 << 28])])


def raw_data_of_four_bytes() -> onnx.ModelProto:
    return model([], [tensor([1 << 28], b"abcd")])


def more_values_than_there_are_numbers() -> onnx.ModelProto:
    return model([], [tensor([1 << 62, 1 << 62], b"abcd")])


def a_negative_size() -> onnx.ModelProto:
    return model([], [tensor([-5], b"abcd")])


def in_an_attribute() -> onnx.ModelProto:
    return model([helper.make_node("Constant", [], ["big"], value=tensor([HUGE]))], [])


def in_a_sparse_tensor() -> onnx.ModelProto:
    made = model([], [])
    values, places = constant("big", [1.0], np.float32), constant("places", [0])
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [HUGE]))
    return made


def functions_that_unfold_into_billions() -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    made = model([helper.make_node("f9", ["input"], ["big"], domain="own")], [])
    made.opset_import.append(opsets[1])
    for level in range(10):
        name, domain = ("Relu", "") if level == 0 else (f"f{level - 1}", "own")
        values = ["x", *(f"y{step}" for step in range(10))]
        calls = [
            helper.make_node(name, [source], [out], domain=domain)
            for source, out in itertools.pairwise(values)
        ]
        made.functions.append(helper.make_function("own", f"f{level}", ["x"], values[-1:], calls, opsets))
    return made


def a_function_that_calls_itself() -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    made = model([helper.make_node("f", ["input"], ["big"], domain="own")], [])
    made.opset_import.append(opsets[1])
    call = helper.make_node("f", ["x"], ["y"], domain="own")
    made.functions.append(helper.make_function("own", "f", ["x"], ["y"], [call], opsets))
    return made


def deep_nesting() -> onnx.ModelProto:
    graph = helper.make_graph([], "g", [], [])
    for _ in range(30):
        inner = helper.make_node(
            "If", ["c"], ["y"], then_branch=graph, else_branch=helper.make_graph([], "e", [], [])
        )
        graph = helper.make_graph([inner], "g", [], [])
    return model([graph.node[0]], [])


LOOKED_AT = [
    (one_gigabyte_in_one_kilobyte, "`big` declares 268435456 values, and holds 0 bytes"),
    (raw_data_of_four_bytes, "`big` declares 268435456 values, and holds 4 bytes"),
    (more_values_than_there_are_numbers, "and holds 4 bytes"),
    (a_negative_size, "`big` has a negative size"),
    (in_an_attribute, "declares 1099511627776 values"),
    (in_a_sparse_tensor, "a sparse tensor declares 1099511627776 values"),
    (functions_that_unfold_into_billions, "unfold into more than 1000000 operations"),
    (a_function_that_calls_itself, "calls itself"),
    (deep_nesting, "nested deeper"),
]


@pytest.mark.parametrize(("make", "message"), LOOKED_AT)
def test_what_shows_in_the_file_is_refused_at_every_door(make: Make, message: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.onnx"
    path.write_bytes(make().SerializeToString())
    assert path.stat().st_size < 20_000
    with pytest.raises(runtime.ArtifactError, match=message):
        runtime.load(str(path))
    with pytest.raises(ModelError, match=message):
        resolve("hostile", path, AuditSpec())
    with pytest.raises(ModelError, match=message):
        adopt(path, (3, 8, 8), tmp_path / "m.onnx")
    assert [*tmp_path.iterdir()] == [path]


def a_loop() -> onnx.ModelProto:
    nodes = [helper.make_node("Add", ["input", "big"], ["a"]), helper.make_node("Relu", ["a"], ["big"])]
    return model(nodes, [])


def _grown(operator: str, *, run_time: bool = False) -> onnx.ModelProto:
    """A graph of some bytes that makes 2^40 values, when it is loaded or, by its input, when it is run."""
    size = constant("size", [HUGE])
    if not run_time:
        inputs = ["size"] if operator == "ConstantOfShape" else ["one", "size"]
        one = constant("one", [1.0], np.float32)
        return model([helper.make_node(operator, inputs, ["big"])], [size, one])
    nodes = [
        helper.make_node("ReduceMax", ["input"], ["m"], keepdims=0),
        helper.make_node("Mul", ["m", "zero"], ["none"]),
        helper.make_node("Cast", ["none"], ["more"], to=TensorProto.INT64),
        helper.make_node("Add", ["more", "size"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["big"]),
    ]
    return model(nodes, [size, constant("zero", 0.0, np.float32)])


RUN = [
    (a_loop, "not acyclic"),
    (lambda: _grown("ConstantOfShape"), "allocate"),
    (lambda: _grown("Expand"), "allocate"),
    (lambda: _grown("Tile"), "bytes"),
    (lambda: _grown("ConstantOfShape", run_time=True), "allocate"),
]


@pytest.mark.parametrize(("make", "message"), RUN, ids=["loop", "constant", "expand", "tile", "run time"])
def test_what_shows_only_when_it_runs_is_a_clear_error_of_the_agent(
    make: Make, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "hostile.onnx"
    path.write_bytes(make().SerializeToString())
    images = np.zeros((1, 8, 8, 3), np.uint8)
    with pytest.raises(ModelError, match=message):
        predict(path, images, SIZE, LocalTarget(name="local"))


def test_a_process_of_the_agent_gets_no_more_memory_than_is_free(tmp_path: Path) -> None:
    """Linux promises more than it has: what is asked for between the free and the whole memory is refused."""
    for file in BACKENDS.load("onnx").device_files:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path = tmp_path / "net.onnx"
    path.write_bytes(BACKENDS.load("onnx").baseline_graph())
    script = """
import json, resource, sys
import runtime
before = resource.getrlimit(resource.RLIMIT_DATA)[0]
graph = runtime.load("net.onnx")
limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
total = next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemTotal:"))
free = next(int(line.split()[1]) for line in open("/proc/meminfo") if line.startswith("MemAvailable:"))
try:
    taken = bytearray(limit)
    refused = False
except MemoryError:
    refused = True
print(json.dumps([before, limit, total << 10, free << 10, refused]))
"""
    finished = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    before, limit, total, free, refused = json.loads(finished.stdout)
    assert before == -1 and 0 < limit < total + (1 << 30)
    assert abs(limit - free) < 2 << 30  # what is free changes, and the process has some already
    assert refused
    # In this process nothing is limited.
    assert runtime.load(str(path)).input_shape == (1, 1)
    import resource

    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == -1
