"""The device side of the LiteRT backend: what it runs, counts and refuses."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert", reason="needs `pip install 'edgekd[litert]'`")

from edgekd.backends.litert import runtime
from edgekd.backends.litert.backend import BACKEND
from edgekd.backends.litert.litert_flatbuffer import Bytes
from tests.backends.executorch.networks import Exported

pytestmark = [
    pytest.mark.backends,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.filterwarnings("ignore"),
]


def as_the_agent_does() -> ModuleType:
    specification = importlib.util.spec_from_file_location("litert_runtime", BACKEND.runtime)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["litert_runtime"] = module
    specification.loader.exec_module(module)
    return module


def test_the_file_runs_imported_by_path(int8: Exported) -> None:
    graph = as_the_agent_does().load(str(int8.path))
    assert (graph.input_shape, graph.dtype) == ((1, 3, 12, 12), np.dtype("float32"))
    answer = graph.run(np.zeros(graph.input_shape, graph.dtype))
    assert (answer.shape, answer.dtype) == ((1, 4), np.dtype("float32"))


def test_neither_torch_nor_the_converter_is_imported() -> None:
    script = (
        "import sys, edgekd.backends.litert.runtime\n"
        "print([n for n in ('torch', 'jax', 'litert_torch', 'google.protobuf') if n in sys.modules])"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["fp32", "native"])
def test_results_are_kept_when_the_graph_runs_again(name: str, request: pytest.FixtureRequest) -> None:
    graph = runtime.load(str(request.getfixturevalue(name).path))
    first = graph.run(np.zeros(graph.input_shape, np.float32))
    copy = first.copy()
    graph.run(np.ones(graph.input_shape, np.float32))
    np.testing.assert_array_equal(first, copy)


@pytest.mark.parametrize("name", ["fp32", "native"])
def test_an_input_in_another_order_of_memory_is_the_same_input(
    name: str, request: pytest.FixtureRequest
) -> None:
    graph = runtime.load(str(request.getfixturevalue(name).path))
    x = np.random.default_rng(0).random(graph.input_shape, np.float32)
    np.testing.assert_array_equal(graph.run(x), graph.run(np.asfortranarray(x)))


def test_the_input_is_not_changed(native: Exported) -> None:
    graph = runtime.load(str(native.path))
    x = np.random.default_rng(0).random(graph.input_shape, np.float32)
    copy = x.copy()
    graph.run(x)
    np.testing.assert_array_equal(x, copy)


def test_values_beyond_the_codes_are_clamped(native: Exported) -> None:
    graph = runtime.load(str(native.path))
    far, farther = (np.full(graph.input_shape, value, np.float32) for value in (1e3, 1e6))
    np.testing.assert_array_equal(graph.run(far), graph.run(farther))


def test_profile_counts_what_runs_and_where(fp32: Exported) -> None:
    profile = runtime.load(str(fp32.path)).profile()
    assert profile["ops"]["CONV_2D"] == 7
    assert profile["placement"][runtime.BUILT_IN] == profile["ops"]["STRIDED_SLICE"]
    assert sum(profile["ops"].values()) == sum(profile["placement"].values())
    assert profile["unexpected"] == []


def test_without_xnnpack_everything_is_built_in_and_the_answers_agree(int8: Exported) -> None:
    plain = runtime.load(str(int8.path), options={"xnnpack": False})
    x = np.random.default_rng(0).random(plain.input_shape, np.float32)
    assert set(plain.profile()["placement"]) == {runtime.BUILT_IN}
    both = plain.run(x), runtime.load(str(int8.path)).run(x)
    np.testing.assert_allclose(*both, rtol=0, atol=0.02 * np.abs(both[0]).max())


def test_a_runtime_whose_xnnpack_takes_nothing_is_a_fallback(
    fp32: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = runtime._opened
    monkeypatch.setattr(runtime, "_opened", lambda path, threads, xnnpack: plain(path, threads, False))
    with pytest.raises(runtime.FallbackError, match="takes no operation"):
        runtime.load(str(fp32.path))


def test_weights_outside_xnnpack_are_unexpected(fp32: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = runtime.load(str(fp32.path))
    monkeypatch.setattr(runtime, "_outside", lambda operations, output: set(range(len(operations))))
    assert [one for one in graph.profile()["unexpected"] if one.startswith("CONV_2D 0 runs in built-in")]


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_do_not_change_the_answers(int8: Exported, threads: int) -> None:
    x = np.random.default_rng(0).random((1, 3, 12, 12), np.float32)
    expected = runtime.load(str(int8.path)).run(x)
    np.testing.assert_array_equal(runtime.load(str(int8.path), threads=threads).run(x), expected)


def test_a_batch_that_the_file_does_not_promise_is_refused(fp32: Exported, tmp_path: Path) -> None:
    path = tmp_path / "one.tflite"
    path.write_bytes(fp32.path.read_bytes().replace(b'"batch": "any"', b'"batch": "one"'))
    assert runtime.load(str(path)).batch == 1
    with pytest.raises(runtime.ArtifactError, match="the batch is fixed to 1, 4 was asked for"):
        runtime.load(str(path), batch=4)


def test_versions_name_the_runtime() -> None:
    assert set(runtime.versions()) == {"ai-edge-litert", "numpy"}


# --- files that are not what they should be -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["fp32", "int8"])
def test_a_cut_file_is_refused(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    content = request.getfixturevalue(name).path.read_bytes()
    path = tmp_path / "cut.tflite"
    for length in [0, 1, 4, 8, 15, 16, *random.Random(0).sample(range(len(content) - 16), 200)]:
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
        b"\x10\0\0\0TFL3" + b"\xff" * 99,
    ],
)
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.tflite"
    path.write_bytes(content)
    with pytest.raises(runtime.ArtifactError):
        runtime.load(str(path))


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.tflite"):
        with pytest.raises(runtime.ArtifactError, match="there is no file"):
            runtime.load(str(path))


def parts(path: Path) -> tuple[bytearray, Any, Any]:
    """(content, root table, graph) for damage at chosen places."""
    content = bytearray(path.read_bytes())
    root = Bytes(content).root()
    return content, root, root.tables(2)[0]


def test_an_integer_tensor_without_step_is_refused(int8: Exported, tmp_path: Path) -> None:
    """LiteRT divides by the step in ADD, and ended the process."""
    content, _, graph = parts(int8.path)
    fields = [table.table(4) for table in graph.tables(0) if table.number(1, "b") == 9]
    for table in fields[:3]:
        damaged = bytearray(content)
        start, _ = table.place(2)
        damaged[start : start + 4] = bytes(4)
        (tmp_path / "a.tflite").write_bytes(damaged)
        with pytest.raises(runtime.ArtifactError, match="step"):
            runtime.load(str(tmp_path / "a.tflite"))


def test_padding_that_asks_for_gigabytes_is_refused(fp32: Exported, tmp_path: Path) -> None:
    """LiteRT computed for minutes."""
    content, root, graph = parts(fp32.path)
    codes = [max(one.number(0, "b"), one.number(3, "i")) for one in root.tables(1)]
    pad = next(one for one in graph.tables(3) if codes[one.number(0, "I")] == 34)
    tensor = graph.tables(0)[pad.numbers(1, "i")[1]]
    start, _ = root.tables(4)[tensor.number(2, "I")].place(0)
    content[start + 11] = 1
    (tmp_path / "a.tflite").write_bytes(content)
    with pytest.raises(runtime.ArtifactError, match="PAD would make"):
        runtime.load(str(tmp_path / "a.tflite"))


@pytest.mark.parametrize("code", [31, 32, 118, 119, 129, 206], ids=lambda code: f"operator{code}")
def test_control_flow_and_foreign_operators_are_refused(fp32: Exported, tmp_path: Path, code: int) -> None:
    content, root, _ = parts(fp32.path)
    for place in (root.tables(1)[0]._place(0), root.tables(1)[0]._place(3)):
        if place is not None:
            content[place : place + 1] = bytes([min(code, 127)])
    place = root.tables(1)[0]._place(3)
    if place is not None:
        content[place : place + 2] = code.to_bytes(2, "little")
    (tmp_path / "a.tflite").write_bytes(content)
    with pytest.raises(runtime.ArtifactError):
        runtime.load(str(tmp_path / "a.tflite"))


def test_flipped_bits_never_end_the_reader(fp32: Exported, tmp_path: Path) -> None:
    """Our own reading, before LiteRT sees the file, ends with an answer or an `ArtifactError`."""
    content = fp32.path.read_bytes()
    generator = random.Random(0)
    path = tmp_path / "flipped.tflite"
    for _ in range(2000):
        damaged = bytearray(content)
        damaged[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        with contextlib.suppress(runtime.ArtifactError):
            runtime.read(path)


@pytest.mark.parametrize("name", ["fp32", "int8"])
def test_flipped_bits_never_end_the_process(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Loaded and run, each in a process of its own, as seeds that were tried: there is no proof of all."""
    content = request.getfixturevalue(name).path.read_bytes()
    generator = random.Random(0)
    path = tmp_path / "flipped.tflite"
    ended = []
    for _ in range(150):
        damaged = bytearray(content)
        place, bit = generator.randrange(len(content)), generator.randrange(8)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        if not _ends_well(path):
            ended.append((place, bit))
    assert ended == []


def _ends_well(path: Path) -> bool:
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        try:
            graph = runtime.load(str(path))
            graph.run(np.zeros(graph.input_shape, np.float32))
            graph.profile()
        except (runtime.ArtifactError, runtime.FallbackError):
            os._exit(0)
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0
