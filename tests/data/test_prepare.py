import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgekd.data.sources.cifar import Cifar10
from edgekd.data.sources.image_folder import ImageFolder

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
needs_data = pytest.mark.skipif(
    "EDGEKD_DATA" not in os.environ, reason="EDGEKD_DATA names the shared data folder; only .ci/run sets it"
)


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent)}
    command = [sys.executable, str(BENCHMARKS / program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize("program", ["prepare_cifar10.py", "prepare_eurosat.py"])
def test_a_missing_folder_is_a_clear_error(tmp_path: Path, program: str) -> None:
    finished = run(program, tmp_path / "no", tmp_path / "out")
    assert finished.returncode == 2
    assert "cannot read" in finished.stderr and "Traceback" not in finished.stderr


def test_an_archive_with_other_content_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "eurosat_rgb_7500.zip", "w") as archive:
        archive.writestr("../../evil.jpg", "x")
    finished = run("prepare_eurosat.py", tmp_path, tmp_path / "a" / "b")
    assert finished.returncode == 2
    assert "sha256" in finished.stderr


@pytest.mark.parametrize("name", ["../evil.jpg", "/evil.jpg", "train/../../A_1.jpg", "train/A/A_1.jpg.sh"])
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, "x")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from unpacking import members; from prepare_eurosat import ALLOWED\n"
        "from pathlib import Path; list(members(Path(sys.argv[2]), ALLOWED))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code, str(BENCHMARKS), str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(BENCHMARKS.parent)},
        check=False,
    )
    assert "unexpected name" in finished.stderr


@needs_data
def test_cifar10_has_its_published_mean_and_counts(tmp_path: Path) -> None:
    finished = run("prepare_cifar10.py", Path(os.environ["EDGEKD_DATA"]) / "cifar10-lossless", tmp_path)
    assert finished.returncode == 0, finished.stderr
    dataset = Cifar10(root=tmp_path).open(0)
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (45_000, 5_000, 1_000)
    assert np.bincount(dataset.test.labels).tolist() == [103, 89, 100, 103, 90, 86, 112, 102, 106, 109]
    mean = np.mean([i.mean(axis=(0, 1)) for i in dataset.train.images.get(range(0, 45_000, 5))], axis=0) / 255
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=0.005)


@needs_data
def test_eurosat_reads_as_an_image_folder(tmp_path: Path) -> None:
    out = tmp_path / "eurosat"
    finished = run("prepare_eurosat.py", Path(os.environ["EDGEKD_DATA"]) / "eurosat-rgb-7500", out)
    assert finished.returncode == 0, finished.stderr
    dataset = ImageFolder(root=out, size=64).open(0)
    assert [len(s) for s in (dataset.train, dataset.val, dataset.test)] == [5250, 750, 1500]
    assert (dataset.image_size, dataset.classes[0], dataset.notes) == ((64, 64), "AnnualCrop", ())
    again = run("prepare_eurosat.py", Path(os.environ["EDGEKD_DATA"]) / "eurosat-rgb-7500", out)
    assert again.returncode == 2 and "not empty" in again.stderr
