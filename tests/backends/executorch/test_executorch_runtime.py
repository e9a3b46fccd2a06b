"""The device side of the ExecuTorch backend: what it runs, counts and refuses."""

from __future__ import annotations

import contextlib
import importlib.util
import random
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("executorch", reason="needs `pip install 'edgekd[executorch]'`")

from edgekd.backends.executorch import runtime
from edgekd.backends.executorch.backend import BACKEND
from edgekd.backends.executorch.executorch_flatbuffer import Bytes
from tests.backends.executorch.networks import Exported

pytestmark = [
    pytest.mark.backends,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore"),
]


def as_the_agent_does() -> ModuleType:
    specification = importlib.util.spec_from_file_location("executorch_runtime", BACKEND.runtime)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["executorch_runtime"] = module
    specification.loader.exec_module(module)
    return module


def test_the_file_runs_imported_by_path(fp32: Exported) -> None:
    graph = as_the_agent_does().load(str(fp32.path))
    assert (graph.input_shape, graph.dtype) == ((1, 3, 12, 12), np.dtype("float32"))
    assert graph.run(np.zeros(graph.input_shape, graph.dtype)).shape == (1, 4)


def test_the_exporter_is_not_imported() -> None:
    script = (
        "import sys, edgekd.backends.executorch.runtime\n"
        "print([n for n in ('executorch.exir', 'torchao', 'torch._dynamo') if n in sys.modules])"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"


def test_results_are_kept_when_the_graph_runs_again(fp32: Exported) -> None:
    graph = runtime.load(str(fp32.path))
    first = graph.run(np.zeros(graph.input_shape, np.float32))
    copy = first.copy()
    graph.run(np.ones(graph.input_shape, np.float32))
    np.testing.assert_array_equal(first, copy)


def test_an_input_in_another_order_of_memory_is_the_same_input(fp32: Exported) -> None:
    graph = runtime.load(str(fp32.path))
    x = np.random.default_rng(0).random(graph.input_shape, np.float32)
    other = np.asfortranarray(x)
    np.testing.assert_array_equal(graph.run(x), graph.run(other))


def test_profile_counts_the_nodes_of_the_delegate(fp32: Exported) -> None:
    profile = runtime.load(str(fp32.path)).profile()
    assert profile["ops"]["Conv2d"] == 7
    assert profile["unexpected"] == []
    assert sum(profile["ops"].values()) == sum(profile["placement"].values())
    assert set(profile["precisions"]) == {"fp32"}


def test_another_batch_is_refused(fp32: Exported) -> None:
    with pytest.raises(runtime.ArtifactError, match="the batch is fixed to 1, 4 was asked for"):
        runtime.load(str(fp32.path), batch=4)


def test_two_thread_counts_in_one_process_are_refused_while_a_program_is_loaded(fp32: Exported) -> None:
    graph = runtime.load(str(fp32.path), threads=1)
    with pytest.raises(runtime.FallbackError, match="one pool"):
        runtime.load(str(fp32.path), threads=2)
    assert graph.run(np.zeros(graph.input_shape, np.float32)).shape == (1, 4)
    del graph
    assert runtime._C._threadpool_get_thread_count() == 1
    assert runtime.load(str(fp32.path), threads=2).threads == 2
    assert runtime._C._threadpool_get_thread_count() == 2


def test_versions_name_the_runtime() -> None:
    versions = runtime.versions()
    assert set(versions) == {"executorch", "backends", "torch", "numpy"}
    assert "XnnpackBackend" in versions["backends"]


def test_a_delegate_that_is_not_linked_in_is_a_fallback(fp32: Exported, tmp_path: Path) -> None:
    content = fp32.path.read_bytes()
    assert content.count(b"XnnpackBackend\0") == 1
    path = tmp_path / "other.pte"
    path.write_bytes(content.replace(b"XnnpackBackend\0", b"MadeUpBackend1\0"))
    with pytest.raises(runtime.FallbackError, match="MadeUpBackend1 is not in this build"):
        runtime.load(str(path))


def test_a_backend_that_was_not_asked_for_is_a_fallback(fp32: Exported) -> None:
    with pytest.raises(runtime.FallbackError, match="runs on XnnpackBackend"):
        runtime.load(str(fp32.path), options={"backends": ["OpenvinoBackend"]})


@pytest.mark.parametrize("name", ["fp32", "int8"])
def test_a_cut_file_is_refused(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    content = request.getfixturevalue(name).path.read_bytes()
    path = tmp_path / "cut.pte"
    lengths = random.Random(0).sample(range(len(content) - 16), 200)
    for length in [0, 1, 4, 8, 39, 40, *lengths]:
        path.write_bytes(content[:length])
        with pytest.raises(runtime.ArtifactError):
            runtime.load(str(path))


@pytest.mark.parametrize(
    "content",
    [
        b"\xff" * 64,
        b"PK\x03\x04" + bytes(60),
        b"<html></html>" * 9,
        bytes(100),
        b"\0\0\0\0ET12" + b"\xff" * 99,
    ],
)
def test_what_is_no_program_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.pte"
    path.write_bytes(content)
    with pytest.raises(runtime.ArtifactError):
        runtime.load(str(path))


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.pte"):
        with pytest.raises(runtime.ArtifactError, match="there is no file"):
            runtime.load(str(path))


def test_constants_of_no_bytes_are_refused(fp32: Exported, tmp_path: Path) -> None:
    """ExecuTorch takes the size of a segment on trust; XNNPACK then reads through a null pointer."""
    content = fp32.path.read_bytes()
    root = Bytes(content, 0, struct.unpack_from("<Q", content, 16)[0]).root()
    places = [segment._place(1) for segment in root.tables(4)]
    path = tmp_path / "empty.pte"
    for place in [place for place in places if place is not None]:
        path.write_bytes(content[:place] + bytes(8) + content[place + 8 :])
        with pytest.raises(runtime.ArtifactError):
            runtime.load(str(path))


def test_a_node_of_another_kind_is_refused(fp32: Exported, tmp_path: Path) -> None:
    """Its fields are read as those of the other kind, which ended the process in XNNPACK."""
    content = fp32.path.read_bytes()
    start = content.index(b"XH00") - 4
    at, length = struct.unpack_from("<II", content, start + 10)
    nodes = Bytes(content, start + at, length).root().tables(1)
    transpose = next(node for node in nodes if node.union(0)[0] == 5)
    place = transpose._place(0)
    assert place is not None
    path = tmp_path / "other.pte"
    damaged = bytearray(content)
    damaged[start + at + place] = 37  # a BatchMatrixMultiply
    path.write_bytes(damaged)
    with pytest.raises(runtime.ArtifactError, match="BatchMatrixMultiply"):
        runtime.load(str(path))


def test_flipped_bits_of_the_program_never_end_the_reader(fp32: Exported, tmp_path: Path) -> None:
    """Our own reading, before ExecuTorch sees the file, ends with an answer or an `ArtifactError`."""
    content = fp32.path.read_bytes()
    structure = struct.unpack_from("<Q", content, 16)[0]
    generator = random.Random(0)
    path = tmp_path / "flipped.pte"
    for _ in range(400):
        damaged = bytearray(content)
        damaged[generator.randrange(structure)] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        with contextlib.suppress(runtime.ArtifactError):
            runtime.read(path).summary()
