"""The device side of the OpenVINO backend: what it runs, counts and refuses."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import distributions as find_distributions
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

# By way of ours: `import openvino` itself would report to Google Analytics.
pytest.importorskip("edgekd.backends.openvino.silent", reason="the extra `openvino` is not installed")

import edgekd.measure.agent
from edgekd.backends.openvino import runtime
from edgekd.backends.openvino.backend import BACKEND
from edgekd.backends.openvino.baseline import one_node_graph
from edgekd.backends.openvino.export import converted, export, serialized, write_pair
from edgekd.backends.source import Source
from edgekd.core.digest import of_file
from edgekd.testing.tiny_networks import IMAGE_SHAPE, NUM_CLASSES, TinyNet

pytestmark = pytest.mark.backends

os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/torchinductor_tests")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pairs net and other: same form, other weights."""
    folder = tmp_path_factory.mktemp("exported")
    for seed, name in enumerate(("net", "other")):
        torch.manual_seed(seed)
        export(Source(TinyNet().eval(), IMAGE_SHAPE), folder / f"{name}.xml")
    return folder


@pytest.fixture
def net(exported: Path, tmp_path: Path) -> Path:
    """A copy of the pair, to be broken."""
    for file in exported.glob("net.*"):
        shutil.copy(file, tmp_path)
    return tmp_path / "net.xml"


@pytest.mark.parametrize("batch", [1, 5])
def test_the_dynamic_batch_is_fixed(net: Path, batch: int) -> None:
    graph = runtime.load(str(net), batch=batch)
    assert graph.input_shape == (batch, *IMAGE_SHAPE)
    assert graph.run(np.zeros(graph.input_shape, graph.dtype)).shape == (batch, NUM_CLASSES)


def test_a_result_outlives_the_next_run(net: Path) -> None:
    graph = runtime.load(str(net))
    x = np.random.default_rng(0).standard_normal(graph.input_shape).astype(np.float32)
    first = graph.run(x)
    kept = first.copy()
    graph.run(-x)
    np.testing.assert_array_equal(first, kept)


def test_threads_hint_and_streams_are_those_asked_for(net: Path) -> None:
    graph = runtime.load(str(net), threads=1)
    compiled = graph._compile(graph._read(), profiling=False)
    found = [compiled.get_property(name) for name in ("INFERENCE_NUM_THREADS", "NUM_STREAMS")]
    assert found == [1, 1]
    assert compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "f32"
    assert compiled.get_property("ENABLE_CPU_PINNING") is False


def test_more_threads_than_there_are_cores_is_refused(net: Path) -> None:
    with pytest.raises(runtime.FallbackError, match="4096 threads were asked for"):
        runtime.load(str(net), threads=4096)


@pytest.mark.parametrize("device", ["NPU", "AUTO", "NOSUCH"])
def test_an_absent_device_is_refused_not_replaced(net: Path, device: str) -> None:
    with pytest.raises(runtime.FallbackError, match=device):
        runtime.load(str(net), options={"device": device})


def test_a_hint_that_would_be_ignored_is_refused(net: Path) -> None:
    with pytest.raises(runtime.FallbackError, match="f32, default"):
        runtime.load(str(net), options={"hint": "f8"})


def test_the_default_hint_is_named(net: Path) -> None:
    profile = runtime.load(str(net), options={"hint": "default"}).profile()
    assert profile["hint"] in ("f32", "bf16", "f16")
    assert profile["unexpected"] == []
    assert sum(profile["precisions"].values()) == len(profile["nodes"])


def test_kernels_are_counted_once_each(net: Path) -> None:
    profile = runtime.load(str(net)).profile()
    assert profile["ops"]["Convolution"] == 3
    assert profile["ops"]["FullyConnected"] == 1
    assert not {"Const", "Input", "Output", "Relu"} & set(profile["ops"])
    for counts in ("ops", "placement", "precisions"):
        assert sum(profile[counts].values()) == len(profile["nodes"])
    assert set(profile["placement"]) == {"CPU"}


def test_layers_are_averages_and_say_so(net: Path) -> None:
    graph = runtime.load(str(net))
    layers = graph.layers([np.zeros(graph.input_shape, graph.dtype)] * 6, 2)
    assert [layer["op"] for layer in layers].count("Convolution") == 3
    for layer in layers:
        assert layer["averaged"] is True
        assert len(layer["us"]) == 4
        assert len(set(layer["us"])) == 1
        assert layer["us"][0] >= 0


def _node(name: str, precision: str, *layers: str) -> dict[str, Any]:
    return {"name": name, "op": "Convolution", "provider": "CPU", "precision": precision, "layers": layers}


@pytest.mark.parametrize(
    ("node", "found"),
    [
        (_node("a", "u8", "a", "Relu/1"), []),
        (_node("x", "u8", "a/DequantizationMultiply", "Add/9"), []),
        (_node("x", "u8", "Add/9", "a.codes"), []),
        (_node("a", "f32", "a"), ["a (Convolution) has int8 weights and ran in f32"]),
        (_node("b", "f32", "b"), ["a has int8 weights, and no kernel says that it computes it"]),
    ],
)
def test_int8_weights_in_a_float_kernel_are_unexpected(node: dict[str, Any], found: list[str]) -> None:
    assert runtime.summarize([node], {"a": ("a.codes", "i8")}, "f32")["unexpected"] == found


def test_a_shorter_float_is_unexpected_unless_it_may_be_chosen() -> None:
    node = _node("a", "bf16", "a")
    assert runtime.summarize([node], {}, "f32")["unexpected"] == [
        "a (Convolution) ran in bf16, f32 was asked for"
    ]
    assert runtime.summarize([node], {}, "default")["unexpected"] == []


def test_a_float_convolution_of_an_int8_graph_is_really_found(tmp_path: Path) -> None:
    """Weights are int8 and activations are not, so the plugin computes in float."""
    ends = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 8, 8])]
    ends.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4, 6, 6]))
    codes = np.random.default_rng(0).integers(-99, 99, (4, 3, 3, 3)).astype(np.int8)
    constants = [
        onnx.numpy_helper.from_array(codes, "layer.weight.codes"),
        onnx.numpy_helper.from_array(np.float32(0.02), "step"),
    ]
    nodes = [
        helper.make_node("DequantizeLinear", ["layer.weight.codes", "step"], ["weight"]),
        helper.make_node("Conv", ["input", "weight"], ["logits"]),
    ]
    graph = helper.make_graph(nodes, "weight-only", ends[:1], ends[1:], constants)
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "a.onnx")
    written = serialized(converted(tmp_path / "a.onnx", "test"), {}, half=False)
    write_pair(tmp_path / "a.xml", written)
    (found,) = runtime.load(str(tmp_path / "a.xml")).profile()["unexpected"]
    assert "layer (Convolution) has int8 weights and ran in f" in found


def test_the_baseline_has_one_node(tmp_path: Path) -> None:
    path = tmp_path / "baseline.xml"
    path.write_bytes(one_node_graph())
    graph = runtime.load(str(path), batch=2)
    assert sum(graph.profile()["ops"].values()) == 1
    np.testing.assert_array_equal(graph.run(np.array([[-1], [2]], np.float32)), [[0], [2]])


def test_versions_name_the_runtime() -> None:
    assert set(runtime.versions()) == {"openvino", "device", "capabilities", "numpy"}


# --- as the agent does --------------------------------------------------------------------------------------


def test_the_agent_runs_it_by_path_in_a_process_of_its_own(net: Path, tmp_path: Path) -> None:
    measure = Path(edgekd.measure.agent.__file__).parent
    for name in ("agent.py", "agent_facts.py", "agent_sensors.py"):
        shutil.copy(measure / name, tmp_path)
    shutil.copy(BACKEND.runtime, tmp_path / "runtime_openvino.py")
    for part in BACKEND.runtime_parts:
        shutil.copy(part, tmp_path)
    _, height, width = IMAGE_SHAPE
    images = np.random.default_rng(0).integers(0, 256, (5, height, width, 3)).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    artifact = {
        "name": "net",
        "path": net.name,
        "sha256": of_file(net),
        "runtime": "runtime_openvino",
        "images": "images.npy",
        "preprocess": {"scale": 1 / 255, "mean": [0.5] * 3, "std": [0.25] * 3},
    }
    request = {"version": 1, "mode": "accuracy", "deadline_s": 200, "threads": 1, "batch": 2, "cores": None}
    request |= {"artifacts": [artifact], "out": "logits.npy"}
    (tmp_path / "request.json").write_text(json.dumps(request))
    command = [sys.executable, "agent.py", "request.json"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=250)
    answer = json.loads(done.stdout)
    assert answer["ok"], answer
    assert answer["result"]["profile"]["unexpected"] == []
    assert answer["versions"]["runtime_openvino"]["openvino"]
    x = ((images.astype(np.float32) * np.float32(1 / 255)) - np.float32(0.5)) / np.float32(0.25)
    expected = runtime.load(str(net), batch=5).run(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, atol=1e-5)


# --- telemetry ----------------------------------------------------------------------------------------------

x86_64 = pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine != "x86_64", reason="the filter is for Linux on x86-64"
)

_WATCHED = """
import ctypes, os, struct, sys
folder = sys.argv[1]
def note(event, arguments):
    if event.startswith("socket.") or event in ("os.fork", "os.forkpty", "os.posix_spawn"):
        with open(folder + "/events", "a") as stream:
            stream.write(event + " " + repr(arguments)[:200] + chr(10))
sys.addaudithook(note)  # processes that are forked keep it
def instruction(code, jt, jf, k):
    return struct.pack("HBBI", code, jt, jf, k)
# seccomp: socket(2), which is number 41, ends the process, whoever calls it.
program = b"".join([
    instruction(0x20, 0, 0, 0), instruction(0x15, 0, 1, 41),
    instruction(0x06, 0, 0, 0x80000000), instruction(0x06, 0, 0, 0x7FFF0000),
])
kept = ctypes.create_string_buffer(program)
filter_ = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 4, ctypes.addressof(kept)))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.c_void_p(ctypes.addressof(filter_)), 0, 0) == 0
"""
_OURS = """
from edgekd.backends.openvino.export import converted, serialized, write_pair
from edgekd.backends.openvino import runtime
from pathlib import Path
import numpy as np
write_pair(Path(folder, "a.xml"), serialized(converted(Path(folder, "a.onnx"), "test"), {}, half=False))
runtime.load(folder + "/a.xml").run(np.zeros((1, 1), np.float32))
print("done")
"""


def _watched(script: str, folder: Path) -> tuple[str, list[str]]:
    """What it prints, and the sockets and processes that it tries to open; none leaves the machine."""
    from edgekd.backends.onnx.baseline import one_node_graph as onnx_graph

    folder.mkdir()
    (folder / "a.onnx").write_bytes(onnx_graph())
    environment = {key: value for key, value in os.environ.items() if key not in ("CI", "TF_BUILD")}
    environment |= {"HOME": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", _WATCHED + script, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    events = folder / "events"
    return done.stdout, events.read_text().splitlines() if events.exists() else []


@x86_64
def test_importing_converting_and_running_open_no_socket_and_no_process(tmp_path: Path) -> None:
    said, events = _watched(_OURS, tmp_path / "ours")
    assert said.strip() == "done"
    assert events == []
    assert not list((tmp_path / "ours").rglob("*intel*")), "an identity was written to the home folder"


@x86_64
def test_without_our_switch_it_would_try(tmp_path: Path) -> None:
    """What makes the test above worth something. The filter ends the process that wants the socket."""
    if not any(find_distributions(name="openvino-telemetry")):
        pytest.skip("nothing that could send is installed")
    _, events = _watched("import openvino, time; time.sleep(3)", tmp_path / "theirs")
    assert any(event.startswith(("os.fork", "socket.")) for event in events)


def test_a_converter_imported_before_with_telemetry_loses_it() -> None:
    from types import ModuleType

    from edgekd.backends.openvino import silent

    module = ModuleType("openvino.tools.ovc.convert_impl")
    vars(module)["tm"] = object()
    silent._silence({module.__name__: module})
    assert vars(module)["tm"].__name__ == "openvino.tools.ovc.telemetry_stub"


# --- bad input ----------------------------------------------------------------------------------------------


def test_a_missing_bin_is_named(net: Path) -> None:
    net.with_suffix(".bin").unlink()
    with pytest.raises(runtime.ArtifactError, match=r"weights are missing: net\.bin"):
        runtime.load(str(net))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_cut_bin_is_refused(net: Path, share: float) -> None:
    weights = net.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[: int(weights.stat().st_size * share)])
    with pytest.raises(runtime.ArtifactError, match="is cut"):
        runtime.load(str(net))


def test_the_weights_of_another_model_are_refused(net: Path, exported: Path) -> None:
    shutil.copy(exported / "other.bin", net.with_suffix(".bin"))
    with pytest.raises(runtime.ArtifactError, match="of another export"):
        runtime.load(str(net))


def test_one_flipped_bit_of_the_weights_is_refused(net: Path) -> None:
    content = bytearray(net.with_suffix(".bin").read_bytes())
    content[100] ^= 1
    net.with_suffix(".bin").write_bytes(content)
    with pytest.raises(runtime.ArtifactError, match="is damaged"):
        runtime.load(str(net))


def test_weights_that_nothing_vouches_for_are_refused(net: Path) -> None:
    net.write_text(net.read_text().replace("weights_sha256", "weights_sha257"))
    with pytest.raises(runtime.ArtifactError, match="does not say which weights"):
        runtime.load(str(net))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_xml_is_refused(net: Path, share: float) -> None:
    content = net.read_bytes().strip()
    net.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(runtime.ArtifactError):
        runtime.load(str(net))


BOMB = "<!DOCTYPE net [<!ENTITY a 'aaaaaaaaaa'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;'>]><net>&b;&b;</net>"
OUTSIDE = "<!DOCTYPE net [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><net name='&a;'/>"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB.encode(), "document type"),
        (OUTSIDE.encode(), "document type"),
        (b"<net>" + b"<a>" * 5000, "nested deeper"),
        (b"<html></html>", "starts with <html>"),
        (b"<net/>", "OpenVINO refuses"),
        (b"<net version='11'><layers/></net>", "needs exactly one input, has 0"),
        ("<net/>".encode("utf-16"), "OpenVINO refuses"),
        (b"\x08\x0a", "not an OpenVINO IR"),
        (b"PK\x03\x04" + bytes(60), "not an OpenVINO IR"),
        (bytes(100), "not an OpenVINO IR"),
        (b"<net><data offset='-1' size='9'/></net>", "reads 9 bytes at -1"),
        (b"<net><data offset='0' size='many'/></net>", "does not say where"),
    ],
)
def test_what_is_no_ir_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.xml"
    path.write_bytes(content)
    with pytest.raises(runtime.ArtifactError, match=message):
        runtime.load(str(path))


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.xml"):
        with pytest.raises(runtime.ArtifactError, match="there is no file"):
            runtime.load(str(path))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("?,3,999999,999999", "bytes"),
        ("9223372036854775807,3,8,8", "OpenVINO refuses"),
        ("?,?,8,8", "only the batch"),
        ("7,3,8,8", "fixed to 7"),
        ("?,3,0,8", "OpenVINO refuses"),
        ("...", "only the batch"),
        ("-5,3,8,8", "no size 0"),
        ("?,5,8,8", "OpenVINO refuses"),
    ],
)
def test_absurd_shapes_are_refused(net: Path, shape: str, message: str) -> None:
    net.write_text(net.read_text().replace('shape="?,3,8,8"', f'shape="{shape}"'))
    with pytest.raises(runtime.ArtifactError, match=message):
        runtime.load(str(net))


_FUZZ = """
import json, sys
from edgekd.backends.openvino import runtime
for number in range(int(sys.argv[2])):
    try:
        runtime.load(f"{sys.argv[1]}/{number}.xml")
        print("ran")
    except runtime.ArtifactError:
        print("refused")
"""


def test_flipped_bytes_never_end_the_process(net: Path, tmp_path: Path) -> None:
    """In another process, so that a crash is one failure; where the meaning stays, it may run."""
    draw, content, count = random.Random(0), net.read_bytes(), 60
    for number in range(count):
        broken = bytearray(content)
        broken[draw.randrange(len(broken))] = draw.choice(b'0123456789<>/"-?a')
        (tmp_path / f"{number}.xml").write_bytes(broken)
        shutil.copy(net.with_suffix(".bin"), tmp_path / f"{number}.bin")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", _FUZZ, str(tmp_path), str(count)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("refused") + done.stdout.count("ran") == count
    assert "refused" in done.stdout
