"""The device's file where there is no GPU: it says so, and what it refuses before it asks for one."""

from __future__ import annotations

import importlib.util
import os
import random
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from edgekd.backends.tensorrt import runtime, tensorrt_cuda
from edgekd.backends.tensorrt.backend import BACKEND
from edgekd.backends.tensorrt.tensorrt_cuda import Cuda, CudaError, Unavailable
from edgekd.backends.tensorrt.tensorrt_file import ArtifactError, check_file
from edgekd.backends.tensorrt.tensorrt_settings import FallbackError, Settings

RUNTIMES = os.environ.get("EDGEKD_CUDA_RUNTIMES", "")
"""A folder below which are real libraries: the wheels nvidia-cuda-runtime-cu12 and nvidia-cuda-runtime."""
LIBRARIES = sorted(map(str, Path(RUNTIMES).rglob("libcudart.so.*"))) if RUNTIMES else []
CALLS = re.findall(r'"(cuda[A-Z]\w+)"', Path(tensorrt_cuda.__file__).read_text())
"""What the runtime calls, beside the two versions, whose names it puts together."""


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    (tmp_path / "a.onnx").write_bytes(BACKEND.baseline_graph())
    return tmp_path / "a.onnx"


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stands for JetPack's module, where nothing asks more than its version."""
    module = SimpleNamespace(__version__="10.3.0")
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    return module


def as_the_agent_does() -> ModuleType:
    specification = importlib.util.spec_from_file_location("runtime_tensorrt", BACKEND.runtime)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_file_is_imported_by_path_without_tensorrt(graph: Path) -> None:
    module = as_the_agent_does()
    assert module.settings_of({}) == tuple(Settings())
    module.check_file(graph)


def test_without_tensorrt_it_says_so(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    for call in (runtime.versions, lambda: runtime.load(str(graph))):
        with pytest.raises(Unavailable, match="TensorRT cannot be imported"):
            call()


@pytest.mark.parametrize("version", ["8.6.1", "9.3.0", "12.0.0", "1.0"])
def test_a_version_that_was_not_checked_is_not_used(version: str, tensorrt: Any, graph: Path) -> None:
    tensorrt.__version__ = version
    with pytest.raises(Unavailable, match=f"TensorRT {version} is not one of 10.x, 11.x"):
        runtime.load(str(graph))


def test_without_a_cuda_library_there_is_no_gpu(
    graph: Path, tensorrt: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_cuda, "libraries", lambda: ["libcudart.so.none"])
    for call in (runtime.versions, lambda: runtime.load(str(graph))):
        with pytest.raises(Unavailable, match="no GPU: there is no CUDA runtime library"):
            call()


def test_a_bad_file_or_option_is_told_before_a_gpu_is_looked_for(tmp_path: Path, graph: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no file"):
        runtime.load(str(tmp_path / "none.onnx"))
    with pytest.raises(FallbackError, match="dla_core"):
        runtime.load(str(graph), options={"tensorrt": {"dla_core": "0"}})


@pytest.mark.backends
@pytest.mark.skipif(not LIBRARIES, reason="set EDGEKD_CUDA_RUNTIMES to a folder of CUDA runtime libraries")
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.rpartition(".so.")[2])
def test_a_real_cuda_runtime_has_every_call_and_says_why_there_is_no_gpu(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = Cuda(library)
    assert len(CALLS) > 15
    assert [name for name in [*CALLS, "cudaGetErrorString"] if not hasattr(cuda._library, name)] == []
    assert int(cuda.version("Runtime").partition(".")[0]) >= 12
    try:
        assert cuda.devices() > 0
    except CudaError as error:
        assert "CUDA error" in str(error) and "cudaGetDeviceCount" in str(error)
        monkeypatch.setattr(tensorrt_cuda, "libraries", lambda: [library])
        with pytest.raises(Unavailable, match=r"no GPU: .*CUDA error"):
            tensorrt_cuda.open_cuda()


def test_pip_and_jetpack_are_looked_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("cuda_runtime", "cu13"):
        (tmp_path / "nvidia" / folder / "lib").mkdir(parents=True)
    (tmp_path / "nvidia/cuda_runtime/lib/libcudart.so.12").touch()
    (tmp_path / "nvidia/cu13/lib/libcudart.so.13").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path), "relative"])
    found = tensorrt_cuda.libraries()
    assert found[0] == "libcudart.so.13"
    assert {path.rpartition("/")[2] for path in found if str(tmp_path) in path} == {
        "libcudart.so.12",
        "libcudart.so.13",
    }


# --- files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x08" * 40, b"\0" * 64, b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_onnx_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(ArtifactError):
        check_file(tmp_path / "a.onnx")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="there is no file"):
        check_file(tmp_path)


def test_a_file_cut_anywhere_is_refused_or_has_lost_no_part_of_its_graph(graph: Path, tmp_path: Path) -> None:
    whole = graph.read_bytes()
    for length in range(len(whole)):
        (tmp_path / "cut.onnx").write_bytes(whole[:length])
        try:
            check_file(tmp_path / "cut.onnx")
        except ArtifactError:
            continue
        assert onnx.load(str(tmp_path / "cut.onnx")).graph.node  # only what stands behind the graph is gone


def test_flipped_bits_end_in_nothing_but_an_artifact_error(graph: Path, tmp_path: Path) -> None:
    whole, chance = graph.read_bytes(), random.Random(5)
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        (tmp_path / "a.onnx").write_bytes(bytes(damaged))
        try:
            check_file(tmp_path / "a.onnx")
        except ArtifactError:
            continue


def test_weights_in_another_file_are_refused(tmp_path: Path) -> None:
    tensor = TensorProto(name="w", dims=[1], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    node = helper.make_node("Constant", [], ["y"], value=tensor)
    for nodes, stored in (([node], []), ([], [tensor])):
        model = helper.make_model(helper.make_graph(nodes, "g", [], [], stored))
        (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(ArtifactError, match="in another file"):
            check_file(tmp_path / "a.onnx")


def test_graphs_without_end_are_refused(tmp_path: Path) -> None:
    inner = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "g", [], [])
    for _ in range(28):
        inner = helper.make_graph([helper.make_node("If", ["c"], ["d"], then_branch=inner)], "g", [], [])
    (tmp_path / "a.onnx").write_bytes(helper.make_model(inner).SerializeToString())
    with pytest.raises(ArtifactError, match="nested deeper"):
        check_file(tmp_path / "a.onnx")
