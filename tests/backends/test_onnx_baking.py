"""A graph with the preprocessing inside answers pixels as the one without it answers normalized images."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from edgekd.backends.catalogue import BACKENDS
from edgekd.backends.onnx import runtime
from edgekd.backends.onnx.export import export
from edgekd.backends.source import Precision, Source
from edgekd.core.errors import ModelError
from edgekd.measure.further import open_rig
from edgekd.measure.probes import predict
from edgekd.pipeline.predict_script import PREDICT_SCRIPT
from edgekd.stages.export import ExportConfig
from edgekd.targets.local import LocalTarget
from edgekd.testing.backend_contract import PREPROCESS, SIZE, images, source
from tests.measure.test_further import TINY

ONNX = BACKENDS.load("onnx")
LOCAL = LocalTarget(name="local")


def both(folder: Path, precision: Precision) -> tuple[Path, Path]:
    """The network as it is, and with its preprocessing inside."""
    given = source(ONNX, precision)
    export(given, folder / "plain.onnx")
    export(replace(given, options={"bake_preprocess": True}), folder / "baked.onnx")
    return folder / "plain.onnx", folder / "baked.onnx"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_answers_are_those_of_normalizing_outside(precision: Precision, tmp_path: Path) -> None:
    plain, baked = (predict(path, images(), PREPROCESS, LOCAL) for path in both(tmp_path, precision))
    assert np.abs(baked - plain).max() <= 1e-6 * np.abs(plain).max()


def test_integer_kernels_stay_what_they_are(tmp_path: Path) -> None:
    plain, baked = (runtime.load(str(path)).profile()["ops"] for path in both(tmp_path, "int8"))
    integer = {name: count for name, count in plain.items() if name.startswith("QLinear") or name == "QGemm"}
    assert integer["QLinearConv"] == 7
    assert {name: baked.get(name) for name in integer} == integer


def test_the_file_says_what_it_takes(tmp_path: Path) -> None:
    given = replace(source(ONNX), options={"bake_preprocess": True})
    facts = export(given, tmp_path / "a.onnx")
    assert facts["input"] == {"name": "input", "shape": ["batch", SIZE, SIZE, 3], "dtype": "uint8"}
    model = onnx.load(str(tmp_path / "a.onnx"))
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert told["layout"] == "NHWC" and told["input"].startswith("uint8 pixels")
    assert json.loads(told["preprocess"]) == json.loads(PREPROCESS.model_dump_json())
    (taken,) = model.graph.input
    assert taken.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"))
    assert session.run(None, {"input": images()[:3]})[0].shape == (3, 4)


@pytest.mark.parametrize("batch", [1, 4])
def test_the_runtime_takes_pixels_of_any_batch(batch: int, tmp_path: Path) -> None:
    _, baked = both(tmp_path, "fp32")
    graph = runtime.load(str(baked), batch=batch)
    assert graph.input_shape == (batch, SIZE, SIZE, 3) and graph.dtype == np.dtype(np.uint8)
    assert graph.run(images()[:batch]).shape == (batch, 4)


def test_it_is_measured_like_any_other_and_never_normalized_twice(tmp_path: Path) -> None:
    """Memory and times with pixels; from files to answers the device only decodes and resizes."""
    plain, baked = both(tmp_path, "fp32")
    stored = tmp_path / "images.npy"
    np.save(stored, images(), allow_pickle=False)
    (tmp_path / "files").mkdir()
    files = [tmp_path / "files" / f"{number}.png" for number in range(4)]
    for path, pixels in zip(files, images(), strict=False):
        Image.fromarray(pixels).save(path)
    with open_rig(LOCAL, TINY, tmp_path / "rig", lambda event: None, seed=0) as rig:
        device, logits = rig.device, {}
        entries = {
            path.stem: device.artifact(path.stem, path, images=stored, preprocess=PREPROCESS)
            for path in (plain, baked)
        }
        assert rig.call("memory", entries["baked"], runs=2)["ms"]["load"] > 0
        for name, entry in entries.items():
            told = [device.push(path, path.name) for path in files]
            fields = {"files": told, "out_images": f"{name}.npy", "out_logits": f"{name}-logits.npy"}
            rig.call("end_to_end", entry, rounds=1, **fields)
            device.pull(f"{name}-logits.npy", tmp_path / f"{name}.npy")
            logits[name] = np.load(tmp_path / f"{name}.npy", allow_pickle=False)
        times = rig.call("latency", *entries.values())["graphs"]
    np.testing.assert_allclose(logits["baked"], logits["plain"], atol=1e-6 * np.abs(logits["plain"]).max())
    assert set(times) == {"plain", "baked"} and all(one["blocks_ns"] for one in times.values())


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    _, baked = both(tmp_path, "fp32")
    with pytest.raises(Exception, match=r"the graph takes \[H, W, C\] = \[12, 12, 3\]"):
        predict(baked, np.zeros((1, 9, 9, 3), np.uint8), PREPROCESS, LOCAL)


def test_without_knowing_how_it_cannot_be_baked(tmp_path: Path) -> None:
    given = Source(source(ONNX).module, (3, SIZE, SIZE), options={"bake_preprocess": True})
    with pytest.raises(ModelError, match="nothing says how"):
        export(given, tmp_path / "a.onnx")
    assert [*tmp_path.iterdir()] == []


def test_it_is_an_option_of_a_recipe() -> None:
    config = ExportConfig.model_validate({"options": {"onnx": {"bake_preprocess": True}}})
    assert config.options == {"onnx": {"bake_preprocess": True}}
    with pytest.raises(ValueError, match="its options: bake_preprocess"):
        ExportConfig.model_validate({"options": {"onnx": {"bake": True}}})


def test_the_script_of_a_bundle_takes_either(tmp_path: Path) -> None:
    """What it prints are label and probability."""
    Image.fromarray(images()[3]).save(tmp_path / "one.png")
    said = []
    for path in both(tmp_path, "fp32"):
        folder = tmp_path / path.stem
        folder.mkdir()
        path.rename(folder / "model.onnx")
        (folder / "predict.py").write_text(PREDICT_SCRIPT)
        (folder / "preprocess.json").write_text(PREPROCESS.model_dump_json())
        (folder / "labels.txt").write_text("a\nb\nc\nd\n")
        command = [sys.executable, "-I", "predict.py", "../one.png"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        said.append(done.stdout)
    assert said[0] == said[1] != ""
