"""The device side of the ncnn backend: what it runs, counts and refuses."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ncnn", reason="the extra `ncnn` is not installed")
pytest.importorskip("pnnx", reason="the extra `ncnn` is not installed")

import edgekd.measure.agent
from edgekd.backends.ncnn import runtime
from edgekd.backends.ncnn.backend import BACKEND
from edgekd.backends.ncnn.baseline import one_node_graph
from edgekd.backends.ncnn.written_form import SEAL, sealed
from edgekd.core.digest import of_file
from edgekd.testing.tiny_networks import IMAGE_SHAPE, NUM_CLASSES
from tests.backends.ncnn.networks import tiny, written

pytestmark = [pytest.mark.backends, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pair of a network, and the weights of another one of the same form."""
    folder = tmp_path_factory.mktemp("exported")
    written(folder / "other", tiny(1))
    written(folder, tiny())
    shutil.copy(folder / "other/net.ncnn.bin", folder / "other.bin")
    return folder


@pytest.fixture
def net(exported: Path, tmp_path: Path) -> Path:
    """A copy of the pair, to be broken."""
    for file in exported.glob("net.*"):
        shutil.copy(file, tmp_path)
    return tmp_path / "net.ncnn.param"


def resealed(path: Path, old: str, new: str, *, weights: bytes | None = None) -> None:
    """Change ncnn's text as somebody would who can write the last line, too."""
    text = path.read_text().rpartition(SEAL)[0]
    assert old in text
    weights = path.with_suffix(".bin").read_bytes() if weights is None else weights
    path.write_bytes(sealed(text.replace(old, new, 1), weights=weights, metadata={}))
    path.with_suffix(".bin").write_bytes(weights)


# --- running ------------------------------------------------------------------------------------------------


def test_it_has_the_shape_of_one_image(net: Path) -> None:
    graph = runtime.load(str(net))
    assert (graph.input_shape, graph.dtype) == ((1, *IMAGE_SHAPE), np.dtype("float32"))
    assert graph.run(np.zeros(graph.input_shape, graph.dtype)).shape == (1, NUM_CLASSES)


def test_a_result_outlives_the_next_run_and_the_network(net: Path) -> None:
    graph = runtime.load(str(net))
    x = np.random.default_rng(0).standard_normal(graph.input_shape).astype(np.float32)
    first = graph.run(x)
    kept = first.copy()
    graph.run(-x)
    del graph
    np.testing.assert_array_equal(first, kept)


def test_an_input_in_another_order_of_memory_is_the_same_input(net: Path) -> None:
    graph = runtime.load(str(net))
    x = np.random.default_rng(0).standard_normal(graph.input_shape).astype(np.float32)
    np.testing.assert_array_equal(graph.run(x), graph.run(np.asfortranarray(x)))


def test_shorter_floats_are_off(net: Path) -> None:
    option = runtime.load(str(net))._net.opt
    assert not any(getattr(option, name) for name in runtime._SHORTER)
    assert option.num_threads == 1


_COUNT_THREADS = """
import os, sys, numpy as np
from edgekd.backends.ncnn import runtime
before = len(os.listdir("/proc/self/task"))
graph = runtime.load(sys.argv[1], threads=int(sys.argv[2]))
graph.run(np.zeros(graph.input_shape, np.float32))
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
@pytest.mark.parametrize("threads", [1, 3])
def test_as_many_threads_run_as_were_asked_for(net: Path, threads: int) -> None:
    command = [sys.executable, "-c", _COUNT_THREADS, str(net), str(threads)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=True)
    assert int(done.stdout) == threads - 1


def test_more_threads_than_may_be_started_are_refused(net: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_THREAD_LIMIT", "1")
    with pytest.raises(runtime.FallbackError, match="2 threads were asked for, OMP_THREAD_LIMIT allows 1"):
        runtime.load(str(net), threads=2)


def test_another_batch_is_refused(net: Path) -> None:
    with pytest.raises(runtime.ArtifactError, match="fixed to 1, 4 was asked for"):
        runtime.load(str(net), batch=4)


def test_layers_are_counted_by_kind(net: Path) -> None:
    profile = runtime.load(str(net)).profile()
    assert profile["ops"] == {"Convolution": 3, "Pooling": 1, "InnerProduct": 1}
    assert (profile["placement"], profile["precisions"]) == ({"CPU": 5}, {"fp32": 5})
    assert (profile["unexpected"], profile["source"]) == ([], "program")


def test_the_baseline_has_one_node(tmp_path: Path) -> None:
    path = tmp_path / "baseline.ncnn.param"
    path.write_bytes(one_node_graph())
    graph = runtime.load(str(path))
    assert graph.profile()["ops"] == {"Pooling": 1}
    assert graph.run(np.full((1, 1, 1, 1), 3, np.float32)).tolist() == [[3.0]]


def test_versions_name_the_runtime() -> None:
    assert set(runtime.versions()) == {"ncnn", "numpy"}


def test_the_agent_runs_it_by_path_in_a_process_of_its_own(net: Path, tmp_path: Path) -> None:
    measure = Path(edgekd.measure.agent.__file__).parent
    for name in ("agent.py", "agent_facts.py", "agent_sensors.py"):
        shutil.copy(measure / name, tmp_path)
    shutil.copy(BACKEND.runtime, tmp_path / "runtime_ncnn.py")
    for part in BACKEND.runtime_parts:
        shutil.copy(part, tmp_path)
    _, height, width = IMAGE_SHAPE
    images = np.random.default_rng(0).integers(0, 256, (5, height, width, 3)).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    artifact = {
        "name": "net",
        "path": net.name,
        "sha256": of_file(net),
        "beside": {"net.ncnn.bin": of_file(net.with_suffix(".bin"))},
        "runtime": "runtime_ncnn",
        "images": "images.npy",
        "preprocess": {"scale": 1 / 255, "mean": [0.5] * 3, "std": [0.25] * 3},
    }
    request = {"version": 1, "mode": "accuracy", "deadline_s": 500, "threads": 1, "batch": 1, "cores": None}
    request |= {"artifacts": [artifact], "out": "logits.npy"}
    (tmp_path / "request.json").write_text(json.dumps(request))
    command = [sys.executable, "agent.py", "request.json"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=550)
    answer = json.loads(done.stdout)
    assert answer["ok"], answer
    assert answer["result"]["n"] == 5
    assert answer["result"]["profile"]["unexpected"] == []
    assert answer["versions"]["runtime_ncnn"]["ncnn"]


# --- bad input ----------------------------------------------------------------------------------------------


def test_a_missing_bin_is_named(net: Path) -> None:
    net.with_suffix(".bin").unlink()
    with pytest.raises(runtime.ArtifactError, match=r"weights are missing: net\.ncnn\.bin"):
        runtime.load(str(net))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_cut_bin_is_refused(net: Path, share: float) -> None:
    weights = net.with_suffix(".bin")
    weights.write_bytes(weights.read_bytes()[: int(weights.stat().st_size * share)])
    with pytest.raises(runtime.ArtifactError, match=r"has \d+ bytes, the layers read 4\d\d\d"):
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


def test_weights_of_half_precision_are_refused(net: Path) -> None:
    content = net.with_suffix(".bin").read_bytes()
    resealed(net, "", "", weights=bytes.fromhex("476b3001") + content[4:])
    with pytest.raises(runtime.ArtifactError, match="not float32"):
        runtime.load(str(net))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_cut_param_is_refused(net: Path, share: float) -> None:
    content = net.read_bytes()
    net.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(runtime.ArtifactError, match=r"is cut|is damaged"):
        runtime.load(str(net))


def test_what_edgekd_did_not_write_is_refused(net: Path) -> None:
    net.write_text(net.read_text().rpartition(SEAL)[0])
    with pytest.raises(runtime.ArtifactError, match="edgekd did not write it"):
        runtime.load(str(net))


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 100, b"PK\x03\x04" + bytes(60), b"<net/>", b"7767518\n1 1\n", "7767517\n".encode("utf-16")],
)
def test_what_is_no_param_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.ncnn.param"
    path.write_bytes(content)
    with pytest.raises(runtime.ArtifactError, match=r"not an ncnn \.param"):
        runtime.load(str(path))


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.param"):
        with pytest.raises(runtime.ArtifactError, match="there is no file"):
            runtime.load(str(path))


@pytest.mark.parametrize("seal", [b"[1]", b"{", b"[" * 100_000, b"\xff", b"{}"])
def test_a_last_line_that_vouches_for_nothing_is_refused(net: Path, seal: bytes) -> None:
    body = net.read_bytes().rpartition(SEAL.encode())[0]
    net.write_bytes(body + SEAL.encode() + seal + b"\n")
    with pytest.raises(runtime.ArtifactError, match=r"damaged|vouch"):
        runtime.load(str(net))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("6 6\n", "6 1\n", "blobs as many as the second line"),
        ("6 6\n", "2000000000 6\n", "says 2000000000 layers, there are 6"),
        ("6 6\n", "\n", "the second line"),
        ("6 6\n", "6 6 6\n", "the second line"),
        ("convrelu_0 1 1", "convrelu_0 -1 1", "not a layer"),
        ("convrelu_0 1 1", "convrelu_0 1000000000 1", "fewer blobs than it says"),
        ("convrelu_1 1 1 1 2", "convrelu_1 1 1 4 2", "no layer before it gives"),
        ("convrelu_1 1 1 1 2", "convrelu_1 1 1 1 1", "which another layer gives too"),
        ("Pooling", "Nonsense", "Nonsense, which ncnn does not have"),
        ("Pooling", "Einsum", "Einsum, which ncnn has and edgekd cannot check"),
        ("6=576", "6=288", "has 288 weights, what comes in needs 576"),
        ("6=576", "6=576 8=1", r"may not have: \[8\]"),
        ("6=576", "6=576 19=1", r"may not have: \[19\]"),
        ("6=576", "6=5.76e2", "not a whole number"),
        ("6=576", "6=576 -23310=2000000000,1", "which is none"),
        ("6=576", "6=576 -23310=-5,1", "which is none"),
        ("6=576", '6="576"', "no number"),
        ("6=576", "6=99999999999", "no number"),
        ("6=576", "77=1", "which is none"),
        ("9=1", "9=2", "fewer than 1 parameters"),
        ("9=1", "9=9", "from 0 to 6"),
        ("13=1", "13=0", "parameter 13 is 0"),
        ("1=3 11=3", "1=0 11=0", "parameter 1 is 0"),
        ("1=3 11=3", "1=-3 11=3", "parameter 1 is -3"),
        ("0=8 1=3", "0=800000000 1=3", "not a whole number|has 288 weights"),
        ("0=8 1=8 2=3", "0=99999 1=99999 2=3", "of the shapes"),
        ("0=8 1=8 2=3", "0=1 1=1 2=5", "what comes in needs"),
        ("0=4 1=1 2=32", "0=8 1=1 2=32", "has 32 weights"),
        ("1 1 4 logits", "1 1 4 answer", "no `logits`"),
        ("Input input", "Noise input", "there must be one Input"),
    ],
)
def test_a_hostile_text_that_is_vouched_for_is_refused(net: Path, old: str, new: str, message: str) -> None:
    resealed(net, old, new)
    with pytest.raises(runtime.ArtifactError, match=message):
        runtime.load(str(net))


def test_ncnn_itself_takes_weights_that_do_not_fit(net: Path) -> None:
    """What makes the sizes above worth following: the result is of memory that nobody wrote."""
    resealed(net, "6=576", "6=288")
    bare = runtime.ncnn.Net()
    assert bare.load_param(str(net)) == 0
    assert bare.load_model(str(net.with_suffix(".bin"))) == 0


_FUZZ = """
import sys, numpy as np
from edgekd.backends.ncnn import runtime
for number in range(int(sys.argv[2])):
    try:
        graph = runtime.load(f"{sys.argv[1]}/{number}.param")
        graph.run(np.zeros(graph.input_shape, graph.dtype))
        print("ran")
    except runtime.ArtifactError:
        print("refused")
"""


def test_texts_changed_at_random_and_vouched_for_never_end_the_process(net: Path, tmp_path: Path) -> None:
    """In another process, so that a crash is one failure; where the meaning stays, it may run.

    The .bin gets the size that the changed text asks for where it can be read at all, as its author would do.
    """
    draw, count = random.Random(0), 400
    text, weights = net.read_text().rpartition(SEAL)[0], net.with_suffix(".bin").read_bytes()
    for number in range(count):
        broken = list(text)
        for _ in range(draw.choice((1, 1, 2, 3))):
            broken[draw.randrange(len(broken))] = draw.choice("0123456789 =-,.\nIPi")
        path = tmp_path / f"{number}.param"
        path.write_bytes(sealed("".join(broken), weights=weights, metadata={}))
        path.with_suffix(".bin").write_bytes(weights)
        _fit(path, weights)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", _FUZZ, str(tmp_path), str(count)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr[-2000:]
    ran, refused = done.stdout.count("ran"), done.stdout.count("refused")
    assert ran + refused == count
    assert ran and refused


def _fit(path: Path, weights: bytes) -> None:
    """Give a changed text weights of the size that it asks for."""
    text = path.read_text().rpartition(SEAL)[0]
    try:
        wanted = runtime.Program(text, {}, path).weights_bytes
    except runtime.ArtifactError:
        return
    if wanted < 1 << 24:
        fitted = (weights + bytes(wanted))[:wanted]
        path.with_suffix(".bin").write_bytes(fitted)
        path.write_bytes(sealed(text, weights=fitted, metadata={}))
        assert json.loads(path.read_text().rpartition(SEAL)[2])["weights_sha256"] == (
            hashlib.sha256(fitted).hexdigest()
        )
