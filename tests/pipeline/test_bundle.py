"""A bundle of the tiny run: whole, checkable, and its artifact says the same wherever it runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from edgekd.core.errors import UsageError
from edgekd.core.measurement import read_measurements
from edgekd.core.run_record import RunRecord
from edgekd.pipeline.bundle import Bundle, make_bundle, read_bundle
from tests.pipeline.conftest import TinyRun, edgekd

pytestmark = pytest.mark.timeout(300)

NUM_IMAGES = 12


@pytest.fixture(scope="module")
def bundle(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tiny_run.folder, tmp_path_factory.mktemp("bundle") / "tiny-bundle")


@pytest.fixture(scope="module")
def record(tiny_run: TinyRun) -> RunRecord:
    return RunRecord.model_validate_json((tiny_run.folder / "record.json").read_bytes())


@pytest.fixture(scope="module")
def images(tiny_run: TinyRun, record: RunRecord, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The first test images as PNG files."""
    folder = tmp_path_factory.mktemp("images")
    row = next(row for row in record.rows if row.name == record.final)
    pixels = np.load(tiny_run.folder / row.evalset / "images.npy", allow_pickle=False)[:NUM_IMAGES]
    files = [folder / f"{number:02d}.png" for number in range(NUM_IMAGES)]
    for image, file in zip(pixels, files, strict=True):
        Image.fromarray(image[..., 0]).save(file)
    return files


def test_it_holds_everything_that_is_handed_over(bundle: Bundle, record: RunRecord) -> None:
    bundle.verify()
    names = {"model.onnx", "labels.txt", "preprocess.json", "card.md", "measurements.jsonl", "verdict.json"}
    assert names | {"recipe.lock.yaml", "predict.py", "record.json"} == set(bundle.manifest.files)
    assert (bundle.folder / "labels.txt").read_text().splitlines() == list(record.labels)
    assert bundle.precision == "int8"


def test_it_says_nothing_of_the_machine_it_was_made_on(bundle: Bundle, tiny_run: TinyRun) -> None:
    for name in ("bundle.json", "record.json", "card.md", "recipe.lock.yaml", "predict.py"):
        text = (bundle.folder / name).read_text()
        assert str(tiny_run.made) not in text, name
        assert str(tiny_run.root) not in text, name


def test_the_same_run_gives_the_same_bundle(bundle: Bundle, tiny_run: TinyRun, tmp_path: Path) -> None:
    again = make_bundle(tiny_run.folder, tmp_path / "again")
    assert again.manifest == bundle.manifest


def test_its_script_edgekd_and_the_session_agree_on_every_image(
    bundle: Bundle, tiny_run: TinyRun, record: RunRecord, images: list[Path]
) -> None:
    logits_file = tiny_run.folder / "session" / "local" / f"{record.final}.logits.npy"
    logits = np.load(logits_file, allow_pickle=False)[:NUM_IMAGES]
    expected = [record.labels[index] for index in logits.argmax(1)]
    assert len(set(expected)) > 2
    names = [str(file) for file in images]
    predicted = edgekd("predict", str(bundle.folder), *names, "--json", cwd=tiny_run.root)
    assert predicted.code == 0, predicted.err
    found = [json.loads(line)["classes"][0] for line in predicted.out.splitlines()]
    assert [best["label"] for best in found] == expected
    powers = np.exp(logits.astype(float) - logits.max(1, keepdims=True))
    shares = powers.max(1) / powers.sum(1)
    assert np.allclose([best["share"] for best in found], shares, atol=1e-6)
    # In a folder of its own, so that edgekd cannot be what the script imports.
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    script = subprocess.run(
        [sys.executable, "-I", str(bundle.folder / "predict.py"), *names],
        cwd="/",
        env=variables,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert script.returncode == 0, script.stderr
    lines = [line.split() for line in script.stdout.splitlines()]
    assert [line[1] for line in lines] == expected
    assert np.allclose([float(line[2]) for line in lines], shares, atol=6e-4)


def test_an_unfinished_run_is_refused(tiny_run: TinyRun, tmp_path: Path) -> None:
    content = json.loads((tiny_run.folder / "record.json").read_text())
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "record.json").write_text(json.dumps({**content, "finished_at": None}))
    with pytest.raises(UsageError, match="not finished"):
        make_bundle(tmp_path / "run", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_an_existing_bundle_is_replaced_only_when_forced(tiny_run: TinyRun, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    make_bundle(tiny_run.folder, out)
    (out / "card.md").write_text("changed")
    with pytest.raises(UsageError, match="--force"):
        make_bundle(tiny_run.folder, out)
    assert (out / "card.md").read_text() == "changed"
    make_bundle(tiny_run.folder, out, force=True).verify()
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_folder_that_is_no_bundle_is_never_replaced(tiny_run: TinyRun, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "work.txt").write_text("years of it")
    with pytest.raises(UsageError, match="not a bundle"):
        make_bundle(tiny_run.folder, tmp_path / "mine", force=True)
    assert (tmp_path / "mine" / "work.txt").read_text() == "years of it"


@pytest.mark.runs
def test_a_release_is_measured_beside_and_the_gate_compares_with_it(
    bundle: Bundle, tiny_run: TinyRun, tmp_path: Path
) -> None:
    """The same artifact as release: nothing is lost against it, so the paired drop is exactly zero."""
    shutil.copytree(tiny_run.root, tmp_path, symlinks=True, dirs_exist_ok=True)
    shutil.copytree(bundle.folder, tmp_path / "release")
    recipe = yaml.safe_load((tmp_path / "tiny.yaml").read_text())
    recipe["gate"] = {
        "release": "release",
        "accuracy_drop": {"max": "1pt", "against": "release"},
        "new_errors": {"max": "1%", "against": "release"},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    done = edgekd("run", "tiny.yaml", "--threads", "1", "--json", cwd=tmp_path)
    assert done.code == 0, done.out + done.err
    run = tmp_path / json.loads(done.out)["run"]
    (drop,) = [
        m
        for m in read_measurements(run / "measurements.jsonl")
        if m.quantity == "accuracy_drop"
        and m.against
        and m.against.name == "release"
        and m.subject.name == "quantized"
    ]
    assert drop.value == 0.0
    assert read_bundle(tmp_path / "release").digest == drop.subject.digest
