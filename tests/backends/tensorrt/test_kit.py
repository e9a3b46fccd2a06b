"""The on-device kit: what is in it, what its script does around a stand-in of trtexec, what comes back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekd.backends.tensorrt import kit, kit_check
from edgekd.backends.tensorrt.kit_result import read_result
from edgekd.backends.tensorrt.trtexec_flags import unknown
from edgekd.core.errors import DataError, ModelError, UsageError

STAND_IN = Path(__file__).with_name("stand_in_trtexec.py")
IMAGES = np.random.default_rng(3).standard_normal((3, 3, 12, 12)).astype(np.float32)
VERSIONS = {"100300": "10.3", "101601": "10.16", "110100": "11.1"}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One convolution to four classes, of dynamic batch."""
    weight = np.random.default_rng(5).standard_normal((4, 3, 12, 12)).astype(np.float32)
    ends = [
        helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 12, 12]),
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4]),
    ]
    nodes = [
        helper.make_node("Conv", ["input", "conv.weight"], ["y"], "Conv_3"),
        helper.make_node("Flatten", ["y"], ["logits"], "Flatten_4"),
    ]
    made = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(weight, "conv.weight")])
    path = tmp_path_factory.mktemp("graph") / "a.onnx"
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(made, opset_imports=opset, ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def written(graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kit") / "kit"
    kit.write_kit(graph, IMAGES, folder, "fp32")
    return folder


@pytest.fixture
def copied(written: Path, tmp_path: Path) -> Path:
    """A kit to spoil, beside a stand-in of trtexec that answers as the reference does."""
    shutil.copytree(written, tmp_path / "kit")
    shutil.copyfile(STAND_IN, tmp_path / "stand_in.py")
    (tmp_path / "trtexec").write_text(f'#!/bin/sh\nexec {sys.executable} {tmp_path}/stand_in.py "$@"\n')
    (tmp_path / "trtexec").chmod(0o755)
    (tmp_path / "version").write_text("100300")
    answer_with(tmp_path, kit_check.reference(written))
    return tmp_path / "kit"


def answer_with(folder: Path, logits: Any) -> None:
    (folder / "logits.json").write_text(json.dumps(np.asarray(logits).tolist()))


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TRTEXEC": str(folder.parent / "trtexec"), "PYTHON": sys.executable}
    return subprocess.run(
        ["sh", "run.sh"], cwd=folder, env=environment, capture_output=True, text=True, timeout=100
    )


def test_the_manifest_names_every_file(written: Path) -> None:
    manifest = json.loads((written / "kit.json").read_text())
    assert {*manifest["files"], "kit.json", "SHA256SUMS"} == {path.name for path in written.iterdir()}
    assert manifest["layers"] == {"Conv_3": "fp32"} and manifest["images"] == 3
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=written, capture_output=True)
    assert done.returncode == 0


def test_the_script_is_one_that_sh_takes(written: Path) -> None:
    assert subprocess.run(["sh", "-n", "run.sh"], cwd=written, capture_output=True).returncode == 0


def test_the_reference_is_what_the_file_says(written: Path, graph: Path) -> None:
    weight = numpy_helper.to_array(onnx.load(graph).graph.initializer[0])
    expected = np.einsum("nchw,kchw->nk", IMAGES.astype(np.float64), weight)
    np.testing.assert_allclose(kit_check.reference(written), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_script_builds_answers_times_and_checks(version: str, copied: Path, graph: Path) -> None:
    (copied.parent / "version").write_text(version)
    done = run(copied)
    assert done.returncode == 0, done.stderr
    calls = [json.loads(line) for line in (copied.parent / "calls.jsonl").read_text().splitlines()]
    assert len(calls) == 1 + len(IMAGES) + 1
    assert [unknown(argv, VERSIONS[version]) for argv in calls] == [[]] * len(calls)
    facts = read_result(copied, copied / "result.json", graph)
    assert facts["tensorrt"].startswith(VERSIONS[version])
    assert facts["gpu"] == {"name": "Stand-in", "compute_capability": "0.0"}
    assert facts["numerics"]["agrees"] and facts["numerics"]["same_top1"] == 3
    assert facts["compute_ms"]["runs"] == 20 and facts["compute_ms"]["p50"] == pytest.approx(1.095)
    assert facts["profile"]["unexpected"] == ["Conv_3 is fp32 in the file and runs in int8 (CaskConvolution)"]
    assert facts["layers"] == [{"name": "Conv_3 + Relu_4", "p50_ms": 0.9}]
    json.dumps(facts, allow_nan=False)


def test_an_engine_that_answers_something_else_fails_the_kit(copied: Path, graph: Path) -> None:
    answer_with(copied.parent, kit_check.reference(copied) * 1.5)
    done = run(copied)
    assert done.returncode == 1 and '"agrees": false' in done.stdout
    assert read_result(copied, copied / "result.json", graph)["numerics"]["agrees"] is False


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda kit: (kit / "model.onnx").write_bytes(b"other"), "model.onnx"),
        (lambda kit: (kit.parent / "fails").touch(), "it cannot"),
        (lambda kit: (kit.parent / "version").write_text("8601"), "knows TensorRT 10 and 11"),
        (lambda kit: (kit.parent / "version").write_text("120000"), "knows TensorRT 10 and 11"),
        (lambda kit: answer_with(kit.parent, [[1, 2]] * 3), "logits are [3, 2]"),
    ],
)
def test_what_goes_wrong_on_the_device_is_told(
    spoil: Callable[[Path], Any], message: str, copied: Path
) -> None:
    spoil(copied)
    done = run(copied)
    assert done.returncode != 0
    assert message in done.stderr + done.stdout


def test_the_checker_needs_nothing_of_edgekd(copied: Path) -> None:
    assert run(copied).returncode == 0
    script = """
import sys, runpy
try:
    runpy.run_path("check.py", run_name="__main__")
except SystemExit as end:
    print("edgekd" in sys.modules, end.code)
"""
    environment = {**os.environ, "PYTHONPATH": str(copied)}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=copied, env=environment, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "False 0", done.stderr


# --- what comes back ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def answer(written: Path) -> dict[str, Any]:
    """A result as check.py writes it."""
    manifest = json.loads((written / "kit.json").read_text())
    return {
        "format": 1,
        "kit_sha256": kit_check.sha256(written / "kit.json"),
        "model_sha256": manifest["model_sha256"],
        "engine": {"sha256": "0" * 64, "size_bytes": 6},
        "tensorrt": "10.3.0",
        "gpu": {"name": "Orin", "compute_capability": "8.7"},
        "machine": {"model": "AGX Orin"},
        "logits": kit_check.reference(written).tolist(),
        "compute_ms": [1.0, 1.25],
        "layers": [
            {"Name": "Conv_3", "LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "Half"}]}
        ],
        "profile": [{"name": "Conv_3", "medianMs": 0.9}],
    }


def test_a_sound_result_is_read(answer: dict[str, Any], written: Path, graph: Path, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps(answer))
    facts = read_result(written, tmp_path / "result.json", graph)
    assert facts["numerics"]["max_abs_difference"] == 0
    assert facts["profile"]["precisions"] == {"fp16": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kit_sha256": "1" * 64}, "the result of another kit"),
        ({"model_sha256": "1" * 64}, "the result of another kit"),
        ({"gpu": {}}, "on which GPU"),
        ({"gpu": {"name": 3}}, "gpu.name"),
        ({"tensorrt": "8.6.1"}, "tensorrt"),
        ({"tensorrt": "10.3.0; rm -rf"}, "tensorrt"),
        ({"format": 2}, "format"),
        ({"further": 1}, "further"),
        ({"engine": {"sha256": "../../x", "size_bytes": 6}}, "engine.sha256"),
        ({"engine": None}, "engine"),
        ({"logits": []}, "logits are"),
        ({"logits": [[1.0, 2.0], [1.0]]}, "."),
        ({"logits": [[1e300] * 4] * 3}, "logits"),
        ({"logits": [["1"] * 4] * 3}, "logits"),
        ({"logits": [[0.0] * 4] * 1000}, "logits"),
        ({"compute_ms": []}, "compute_ms"),
        ({"compute_ms": [-1.0]}, "compute_ms"),
        ({"compute_ms": ["1"]}, "compute_ms"),
        ({"layers": [{"Name": "x" * 10_000}]}, "layers"),
        ({"layers": [{"Name": {"a": {"b": "c"}}}]}, "layers"),
        ({"layers": "x"}, "layers"),
        ({"profile": [{"name": "a", "medianMs": float("inf")}]}, "profile"),
    ],
)
def test_a_result_of_another_form_is_refused(
    change: dict[str, Any], message: str, answer: dict[str, Any], written: Path, graph: Path, tmp_path: Path
) -> None:
    (tmp_path / "result.json").write_text(json.dumps({**answer, **change}))
    with pytest.raises(DataError, match=message):
        read_result(written, tmp_path / "result.json", graph)


@pytest.mark.parametrize("content", [b"", b"[]", b"nul", b"\xff\xfe", b"[" * 200_000, b"9" * 10_000])
def test_what_is_no_result_is_refused(content: bytes, written: Path, graph: Path, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(DataError):
        read_result(written, tmp_path / "result.json", graph)
    with pytest.raises(DataError, match="cannot read"):
        read_result(written, tmp_path / "none.json", graph)
    with pytest.raises(DataError, match="cannot read"):
        read_result(written, tmp_path, graph)


def test_a_huge_file_is_not_read(written: Path, graph: Path, tmp_path: Path) -> None:
    with (tmp_path / "result.json").open("wb") as stream:
        stream.truncate(1 << 33)
    with pytest.raises(DataError, match="larger than 32 MiB"):
        read_result(written, tmp_path / "result.json", graph)


# --- a kit that was changed on its way ----------------------------------------------------------------------


def resealed(kit_folder: Path, answer: dict[str, Any], change: Callable[[dict[str, Any]], Any]) -> Path:
    """The kit with another kit.json, and a result that names it."""
    manifest = json.loads((kit_folder / "kit.json").read_text())
    change(manifest)
    (kit_folder / "kit.json").write_text(json.dumps(manifest))
    told = {**answer, "kit_sha256": kit_check.sha256(kit_folder / "kit.json")}
    (kit_folder / "result.json").write_text(
        json.dumps({**told, "model_sha256": manifest.get("model_sha256", "0" * 64)})
    )
    return kit_folder / "result.json"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda kit: kit.pop("images"), "images"),
        (lambda kit: kit.update(images=65), "images"),
        (lambda kit: kit.update(images=4), "image_003.bin"),
        (lambda kit: kit.update(precision="int4"), "precision"),
        (lambda kit: kit.update(model_sha256="1" * 64), "another artifact than a.onnx"),
        (lambda kit: kit.update(files={}), "not the image that was written"),
        (lambda kit: kit["engine"].update(shape=[1, 3, 12, 13]), r"the model takes \[3, 12, 12\]"),
        (lambda kit: kit["engine"].update(shape=[1, 3, 1 << 40, 12]), "engine.shape"),
        (lambda kit: kit.update(layers={"Conv_3": 3}), "layers"),
    ],
)
def test_a_kit_that_says_something_else_is_refused(
    change: Callable[[dict[str, Any]], Any], message: str, answer: dict[str, Any], copied: Path, graph: Path
) -> None:
    with pytest.raises(DataError, match=message):
        read_result(copied, resealed(copied, answer, change), graph)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"[" * 200_000, None])
def test_a_kit_without_a_readable_list_is_refused(content: bytes | None, copied: Path, graph: Path) -> None:
    (copied / "kit.json").unlink()
    if content is not None:
        (copied / "kit.json").write_bytes(content)
    with pytest.raises(DataError, match=r"kit\.json"):
        read_result(copied, copied / "result.json", graph)


def test_a_reference_or_limit_that_was_changed_is_of_no_account(
    answer: dict[str, Any], copied: Path, graph: Path
) -> None:
    """The logits are compared with what the artifact answers here, by the tolerance of its precision."""
    wrong = (kit_check.reference(copied) * 2).tolist()
    np.savez(copied / "reference.npz", logits=np.array(wrong, np.float32))
    path = resealed(copied, {**answer, "logits": wrong}, lambda kit: kit.update(tolerance=1e9, layers={}))
    facts = read_result(copied, path, graph)
    assert (facts["numerics"]["agrees"], facts["numerics"]["tolerance"]) == (False, 1e-3)
    assert facts["profile"]["unexpected"] == ["Conv_3 is fp32 in the file and runs in fp16 (CaskConvolution)"]


def test_an_image_that_was_changed_is_refused(answer: dict[str, Any], copied: Path, graph: Path) -> None:
    (copied / "image_001.bin").write_bytes(bytes(4 * 3 * 12 * 12))
    (copied / "result.json").write_text(json.dumps(answer))
    with pytest.raises(DataError, match=r"image_001\.bin(.|\n)*not the image"):
        read_result(copied, copied / "result.json", graph)
    nan = np.full((3, 12, 12), np.nan, "<f4")
    nan.tofile(copied / "image_001.bin")
    digest = kit_check.sha256(copied / "image_001.bin")
    path = resealed(copied, answer, lambda kit: kit["files"].update({"image_001.bin": digest}))
    with pytest.raises(DataError, match="no finite numbers"):
        read_result(copied, path, graph)


def test_a_kit_is_not_written_over_another(written: Path, graph: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not empty"):
        kit.write_kit(graph, IMAGES, written, "fp32")
    with pytest.raises(ModelError, match="1 to 64 images"):
        kit.write_kit(graph, IMAGES[:0], tmp_path / "kit", "fp32")
    with pytest.raises(ModelError, match="the images are"):
        kit.write_kit(graph, IMAGES[:, :, 1:], tmp_path / "kit", "fp32")
