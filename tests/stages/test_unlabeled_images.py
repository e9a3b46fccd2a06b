"""`data: {unlabeled: folder/}` in recipes: methods that learn from such images, keys, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgekd.cli.main import exit_code_of
from edgekd.core.artifact import Artifact
from edgekd.data.sources.digits import Digits
from edgekd.measure import agent  # noqa: F401 - here, because importing it limits NumPy's threads
from edgekd.stages.context import Data
from edgekd.store.store import Store

RECIPE = """
data: {source: digits, calibration: 16, UNLABELED}
teacher: {network: resnet_cifar, args: {depth: 8, width: 0.25}, accept_poor: true, epochs: 1, batch_size: 128}
steps:
  - student: {network: resnet_cifar, args: {depth: 8, width: 0.25}}
  - teacher
  - distill: {method: METHOD, epochs: 1, batch_size: 128}
  - export
"""
NOISY, MEAN = "noisy-student", "{name: mean-teacher, unlabeled: true}"


def write(folder: Path, method: str, unlabeled: str = "") -> None:
    text = RECIPE.replace("METHOD", method).replace(", UNLABELED", unlabeled)
    (folder / "r.yaml").write_text(text)


def save_noise(folder: Path, count: int, *, seed: int) -> None:
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(seed)
    for number in range(count):
        pixels = random.integers(0, 256, (10, 10), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}_{number}.png")


def distill() -> None:
    assert exit_code_of(["run", "r.yaml", "--until", "distill", "--quiet", "--threads", "1"]) == 0


def steps(folder: Path) -> dict[str, Mapping[str, Any]]:
    """By name, of the run that was written last."""
    records = sorted(folder.glob(".edgekd/runs/r/*/record.json"), key=lambda path: path.stat().st_mtime_ns)
    return {step["name"]: step for step in json.loads(records[-1].read_text())["steps"]}


def artifact(folder: Path, step: str) -> Artifact:
    links = sorted(folder.glob(f".edgekd/runs/r/*/steps/*-{step}"), key=lambda path: path.lstat().st_mtime_ns)
    return Artifact.read(links[-1].resolve())


@pytest.mark.parametrize(("method", "term"), [(NOISY, "noisy-student"), (MEAN, "mean-teacher")])
def test_methods_learn_from_labeled_and_unlabeled_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, term: str
) -> None:
    monkeypatch.chdir(tmp_path)
    save_noise(tmp_path / "more", 20, seed=0)
    digests = []
    for _ in range(2):
        write(tmp_path, method, ", unlabeled: more/")
        distill()
        trained = artifact(tmp_path, "distill")
        (epoch,) = trained.facts["history"]
        assert any(name.startswith(term) for name in epoch["train"]), epoch
        digests.append(trained.digest)
        save_noise(tmp_path / "more", 20, seed=1)
    assert digests[0] != digests[1], "other unlabeled images must lead to another student"


def test_unlabeled_images_make_a_student_anew_and_leave_the_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "kd")
    distill()
    without = steps(tmp_path)
    save_noise(tmp_path / "more", 5, seed=0)
    write(tmp_path, "kd", ", unlabeled: more/")
    distill()
    with_them = steps(tmp_path)
    assert with_them["teacher"]["key"] == without["teacher"]["key"]
    assert with_them["teacher"]["status"] == "cached"
    assert with_them["distill"]["key"] != without["distill"]["key"]


def test_a_data_set_without_unlabeled_images_has_the_digest_it_always_had(tmp_path: Path) -> None:
    source = Digits()
    data = Data(source.open(0), source, Store(tmp_path))
    assert data.digest == data.labeled_digest
    assert data.digest.startswith("5e38da1e002701059b00daac06fed711")


@pytest.mark.parametrize("method", [NOISY, MEAN])
@pytest.mark.parametrize("student", ["student: {network: resnet_cifar, args: {depth: 8}}", "select: {}"])
def test_a_method_that_lacks_them_is_refused_before_any_compute(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    method: str,
    student: str,
) -> None:
    """Also where the student is found only in the run."""
    monkeypatch.chdir(tmp_path)
    text = RECIPE.replace("METHOD", method).replace(", UNLABELED", "")
    lines = [f"  - {student}" if line.startswith("  - student") else line for line in text.splitlines()]
    (tmp_path / "r.yaml").write_text("\n".join(lines))
    assert exit_code_of(["validate", "r.yaml"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "step `distill`" in said and "images without labels" in said
    assert "data: {unlabeled: folder/}" in said
