"""The agent on this machine: a real process, real graphs, and input that means harm."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from edgekd.backends.catalogue import BACKENDS
from edgekd.backends.onnx import runtime
from edgekd.core.digest import of_file
from edgekd.core.errors import DataError, ModelError, TargetError
from edgekd.core.preprocess import Preprocess
from edgekd.measure import agent, agent_facts
from edgekd.measure.device import Device, open_device
from edgekd.targets.local import LocalTarget
from tests.measure import graphs
from tests.measure.graphs import PREPROCESS

AGENT = sorted(Path(agent.__file__).parent.glob("agent*.py"))
RUNTIMES = [file for name in ("onnx", "tensorrt") for file in BACKENDS.load(name).device_files]
ON_DEVICE = [*AGENT, *RUNTIMES]
OPTIONAL = {"agent_end_to_end.py": ("PIL",), "agent_loadgen.py": ("mlperf_loadgen",)}
LIBC = "import ctypes\nlibc = ctypes.CDLL(None)\n"


@pytest.fixture(scope="module")
def device() -> Iterator[Device]:
    with open_device(LocalTarget(name="local")) as opened:
        yield opened


@pytest.mark.parametrize("path", ON_DEVICE, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_device_code_is_python_3_8(path: Path) -> None:
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))


@pytest.mark.parametrize("path", ON_DEVICE, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_device_code_imports_the_standard_library_numpy_and_the_runtime_only(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names += [str(node.module) for node in imports if node.level == 0]
    roots = {name.partition(".")[0] for name in names}
    beside = {path.stem for path in ON_DEVICE}
    assert roots <= set(sys.stdlib_module_names) | beside | {
        "numpy",
        "onnxruntime",
        *OPTIONAL.get(path.name, ()),
    }
    assert {str(node.module) for node in imports if node.level} <= beside


@pytest.mark.parametrize("channels", [1, 3])
def test_preprocessing_agrees_with_the_one_definition(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (32, 5, 7, channels), dtype=np.uint8)
    plan = Preprocess(size=(5, 7), mean=(0.4914, 0.48, 0.44)[:channels], std=(0.2, 0.19, 0.3)[:channels])
    mine = agent.preprocess(images, plan.model_dump(mode="json"), np.dtype(np.float32))
    exact = (images.astype(np.float64) / 255 - plan.mean) / plan.std
    np.testing.assert_allclose(mine, plan.apply(images), atol=1e-6, rtol=0)
    np.testing.assert_allclose(mine, exact.transpose(0, 3, 1, 2), atol=2e-6)
    assert mine.flags.c_contiguous


def test_logits_are_those_of_onnx_runtime_in_image_order(
    device: Device, graph: Path, evalset: Path, tmp_path: Path
) -> None:
    entry = device.artifact("g", graph, images=evalset / "images.npy", preprocess=PREPROCESS)
    answer = device.call("accuracy", [entry], out="logits.npy", batch=7)
    device.pull("logits.npy", tmp_path / "logits.npy")
    logits = np.load(tmp_path / "logits.npy", allow_pickle=False)
    images = np.load(evalset / "images.npy", allow_pickle=False)
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"input": PREPROCESS.apply(images)})[0]
    np.testing.assert_allclose(logits, expected, atol=1e-5)
    assert logits.dtype == np.float32
    assert answer["result"]["n"] == len(images)
    assert set(answer["result"]["profile"]["placement"]) == {"CPUExecutionProvider"}


def test_facts_name_the_machine(device: Device) -> None:
    facts = device.call("facts")["facts"]
    assert facts["cores"] >= 1
    assert facts["memory_bytes"] > 1 << 20
    assert facts["emulated"] is None
    assert isinstance(facts["vnni"], bool)


def test_a_marked_emulator_is_reported(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKD_EMULATED", "qemu cortex-a76")
    assert device.call("facts")["facts"]["emulated"] == "qemu cortex-a76"


@pytest.mark.parametrize(
    ("machine", "cpu", "emulated"),
    [
        ("aarch64", {"vendor_id": "GenuineIntel"}, True),
        ("aarch64", {"CPU implementer": "0x41"}, False),
        ("x86_64", {"model name": "QEMU TCG CPU version 2.5+"}, True),
        ("x86_64", {"vendor_id": "AuthenticAMD", "model name": "AMD EPYC"}, False),
    ],
)
def test_emulation_shows_in_the_cpu_facts(
    machine: str, cpu: dict[str, str], emulated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_facts, "read", lambda path: None)
    assert (agent_facts.emulation(machine, cpu) is not None) is emulated


def test_graphs_are_interleaved_in_blocks_of_the_asked_size(
    device: Device, graph: Path, evalset: Path, tmp_path: Path
) -> None:
    other = graphs.conv_net(tmp_path / "other.onnx", width=4)
    entries = [
        device.artifact(name, path, images=evalset / "images.npy", preprocess=PREPROCESS)
        for name, path in (("one", graph), ("two", other))
    ]
    request: dict[str, Any] = {
        "seed": 3,
        "block": 10,
        "min_s": 0.02,
        "min_count": 35,
        "min_rounds": 2,
        "warm_up": {"min_s": 0.01, "min_count": 10, "max_s": 0.05, "tolerance": 0.02},
    }
    result = device.call("latency", entries, **request)["result"]
    blocks = {name: np.array(found["blocks_ns"]) for name, found in result["graphs"].items()}
    assert set(blocks) == {"one", "two"}
    assert blocks["one"].shape == blocks["two"].shape
    assert blocks["one"].shape[1] == 10
    assert blocks["one"].shape[0] >= 4, "35 runs in blocks of 10"
    assert (blocks["one"] > 0).all()
    assert result["span_s"] >= 0.02
    for found in result["graphs"].values():
        assert found["warm_up"]["runs"] >= 10
        assert found["num_inputs"] == 60
        assert min(found["load_ms"], found["first_run_ms"]) > 0


def test_warm_up_windows_agree_only_when_their_medians_do() -> None:
    assert agent.steady([100] * 10, 0.02)
    assert not agent.steady([100] * 9, 0.02), "two windows need ten runs"
    assert not agent.steady([120] * 5 + [100] * 5, 0.02)


def test_memory_grows_from_import_to_run(device: Device, graph: Path) -> None:
    stages = device.call("memory", [device.artifact("g", graph)], runs=3)["result"]
    peaks = [stages[stage]["VmHWM"] for stage in ("import", "load", "run")]
    assert peaks == sorted(peaks)
    assert peaks[0] > 1000


def test_a_truncated_graph_is_a_model_error(device: Device, graph: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(graph.read_bytes()[:200])
    with pytest.raises(ModelError, match="ArtifactError"):
        device.call("memory", [device.artifact("g", cut)], runs=1)


def test_a_missing_graph_is_a_model_error(device: Device, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot read"):
        device.artifact("g", tmp_path / "absent.onnx")


def test_a_damaged_transfer_is_noticed(device: Device, graph: Path) -> None:
    entry = {**device.artifact("g", graph), "sha256": "0" * 64}
    with pytest.raises(TargetError, match="arrived damaged"):
        device.call("memory", [entry], runs=1)


def test_a_graph_that_is_damaged_after_it_was_looked_at_is_no_bad_graph(
    graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copyfile(graph, tmp_path / "graph.onnx"))
    artifact = {"path": str(path), "sha256": of_file(path), "runtime": "runtime_onnx"}
    monkeypatch.setitem(sys.modules, "runtime_onnx", runtime)
    agent.check_digest(artifact)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(agent.RequestError, match="arrived damaged"):
        agent.load({"threads": 1, "batch": 1}, artifact)


@pytest.mark.parametrize(
    "images",
    [
        pytest.param(np.zeros((4, 9, 9, 3), np.uint8), id="other size"),
        pytest.param(np.zeros((4, 8, 8, 1), np.uint8), id="other channels"),
        pytest.param(np.zeros((4, 8, 8, 3), np.float32), id="not uint8"),
        pytest.param(np.zeros((0, 8, 8, 3), np.uint8), id="empty"),
        pytest.param(np.array([[{}]], dtype=object), id="pickled"),
    ],
)
def test_images_that_do_not_fit_are_refused(graph: Path, tmp_path: Path, images: np.ndarray) -> None:
    np.save(tmp_path / "images.npy", images, allow_pickle=True)
    with pytest.raises(agent.DataError, match=r"images"):
        agent.read_images(str(tmp_path / "images.npy"), runtime.load(str(graph)))


def test_images_that_were_pickled_are_a_data_error(device: Device, graph: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    entry = device.artifact("g", graph, images=tmp_path / "images.npy", preprocess=PREPROCESS)
    with pytest.raises(DataError, match="cannot read the images") as raised:
        device.call("accuracy", [entry], out="logits.npy")
    assert raised.value.exit_code == 2


def test_an_unknown_mode_lists_the_modes(device: Device) -> None:
    with pytest.raises(TargetError, match="modes: facts, accuracy, memory, latency"):
        device.call("dance")


def run_alone(folder: Path, request_text: str, *runtimes: str) -> subprocess.CompletedProcess[str]:
    """The agent as a device runs it, in a folder with its own files only."""
    for path in AGENT:
        shutil.copy(path, folder)
    for number, text in enumerate(runtimes):
        (folder / f"runtime_{number}.py").write_text(text)
    return subprocess.run(
        [sys.executable, "-B", "agent.py"],
        cwd=folder,
        input=request_text,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("request_text", "message"),
    [("not json", "not JSON"), ("[]", "not a JSON object"), ('{"version": 99}', "of version 99")],
)
def test_a_request_that_makes_no_sense_ends_with_3_and_one_line(
    request_text: str, message: str, tmp_path: Path
) -> None:
    finished = run_alone(tmp_path, request_text)
    (line,) = finished.stdout.splitlines()
    assert finished.returncode == 3
    assert json.loads(line)["ok"] is False
    assert message in json.loads(line)["error"]["message"]


def test_the_deadline_ends_the_agent_by_itself(device: Device, graph: Path) -> None:
    entry = device.artifact("g", graph)
    with pytest.raises(TargetError, match=r"its deadline of 1\.5 s is over"):
        device.call("memory", [entry], runs=10**9, deadline_s=1.5)
