"""What a base installation does with a real run: everything but `run`, in which torch cannot be imported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekd.core.measurement import read_measurements
from tests.pipeline.conftest import Finished, TinyRun, edgekd

pytestmark = pytest.mark.timeout(300)

BLOCK = """
import sys
class Blocked:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "sklearn", "onnxscript", "optuna"):
            raise ModuleNotFoundError(f"No module named {name!r} (blocked)", name=name)
sys.meta_path.insert(0, Blocked)
"""


def base(*arguments: str, cwd: Path) -> Finished:
    return edgekd(*arguments, cwd=cwd, wrapper=BLOCK)


@pytest.fixture(scope="module")
def folder(tiny_run: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny run, measured again and bundled by processes without torch."""
    folder = tmp_path_factory.mktemp("base")
    shutil.copytree(tiny_run.root, folder, symlinks=True, dirs_exist_ok=True)
    for arguments in (["measure", "tiny", "--protocol", "smoke"], ["bundle", "tiny", "--out", "bundle"]):
        done = base(*arguments, cwd=folder)
        assert done.code == 0, done.err
    return folder


def test_measuring_again_gives_the_same_accuracies(folder: Path, tiny_run: TinyRun) -> None:
    (run,) = (folder / ".edgekd" / "runs" / "tiny").iterdir()
    found = [
        {
            m.subject.name: m.value
            for m in read_measurements(r / "measurements.jsonl")
            if m.quantity == "accuracy"
        }
        for r in (run, tiny_run.folder)
    ]
    assert found[0] == found[1]
    assert len(found[0]) == 5


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["list", "methods"],
        ["list", "networks"],
        ["doctor"],
        ["show", "tiny"],
        ["gate", "tiny", "--set", "gate.accuracy_drop=[]"],
        ["report", "tiny", "--out", "report"],
        ["verify", "bundle"],
        ["store", "size"],
        ["schema"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_command_works(folder: Path, arguments: list[str]) -> None:
    done = base(*arguments, cwd=folder)
    assert done.code == 0, done.err
    assert done.out
    assert "Traceback" not in done.err


def test_a_bundle_predicts(folder: Path) -> None:
    Image.fromarray(np.full((8, 8), 99, np.uint8)).save(folder / "one.png")
    done = base("predict", "bundle", "one.png", "--json", cwd=folder)
    assert done.code == 0, done.err
    assert json.loads(done.out)["classes"]


def test_running_names_the_extra_that_is_missing(folder: Path) -> None:
    done = base("run", "tiny.yaml", "--set", "seed=7", cwd=folder)
    assert done.code == 6, done.err
    assert "edgekd[train]" in done.err
    assert "Traceback" not in done.err
