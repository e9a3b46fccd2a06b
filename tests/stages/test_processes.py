"""A training shared by two processes: started, stopped and resumed through the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgekd.core.preprocess import Preprocess
from edgekd.core.spec import ModelSpec, NetworkSpec
from edgekd.distill.settings import DistillSettings
from edgekd.networks.model import build_model
from edgekd.stages.distill import DistillConfig
from edgekd.stages.processes import _context, _write_job
from tests.pipeline.conftest import TINY, edgekd

COMMAND = ("run", "tiny.yaml", "--until", "distill", "--threads", "2")
SHARED = TINY.replace("- teacher: {epochs: 3}", "- teacher: {epochs: 1}").replace(
    "- distill: {method: kd, epochs: 3, batch_size: 32}",
    "- distill: {method: kd, epochs: 3, batch_size: 32, processes: 2}",
)


def digest(root: Path) -> str:
    (record,) = (root / ".edgekd" / "runs" / "tiny").glob("*/record.json")
    steps = {step["name"]: step for step in json.loads(record.read_text())["steps"]}
    return str(steps["distill"]["digest"])


@pytest.mark.runs
@pytest.mark.timeout(400)
def test_interrupted_and_resumed_processes_end_with_the_same_weights(tmp_path: Path) -> None:
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tiny.yaml").write_text(SHARED)
    whole = edgekd(*COMMAND, cwd=tmp_path / "whole")
    assert whole.code == 0, whole.err
    assert interrupted_after("epoch 1/3", tmp_path / "cut") == 130
    resumed = edgekd(*COMMAND, cwd=tmp_path / "cut")
    assert resumed.code == 0, resumed.err
    assert "training continues" in resumed.out + resumed.err
    assert digest(tmp_path / "cut") == digest(tmp_path / "whole")


def interrupted_after(text: str, root: Path) -> int:
    """The exit code of a run that gets Ctrl-C when it has printed `text`."""
    with subprocess.Popen(
        [sys.executable, "-m", "edgekd", *COMMAND],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])},
    ) as child:
        seen = 0
        for line in child.stdout or ():
            seen += text in line
            if seen:
                child.send_signal(signal.SIGINT)
                break
        child.communicate(timeout=100)
    return child.returncode


def test_a_training_time_needs_one_process(tmp_path: Path) -> None:
    recipe = SHARED.replace("epochs: 3, batch_size: 32", "time: 5s, batch_size: 32")
    (tmp_path / "tiny.yaml").write_text(recipe)
    done = edgekd(*COMMAND, cwd=tmp_path)
    assert done.code == 2
    assert "`time` needs one process" in done.err and "epochs" in done.err


def test_a_process_knows_what_the_results_of_its_step_depend_on(tmp_path: Path) -> None:
    """Else answers that an older edgekd recorded would pass for those of this one."""
    told = {
        "store": str(tmp_path / "store"),
        "source": "edgekd.data.sources.digits:Digits",
        "source_settings": {},
        "seed": 0,
        "device": "cpu",
        "threads": 1,
        "trust_code": False,
        "basis": {"code": {"edgekd.networks": "abc"}, "threads": 2},
        "parent": os.getpid(),
    }
    context = _context(tmp_path, told, leads=False)
    network = NetworkSpec(name="resnet_cifar", args={"depth": 8}, num_classes=10, in_channels=1)
    preprocess = Preprocess(size=(8, 8), mean=(0.5,), std=(0.5,))
    labels = tuple(str(digit) for digit in range(10))
    model = build_model(ModelSpec(network=network, preprocess=preprocess, labels=labels))
    job = tmp_path / "job"
    _write_job(job, context, DistillConfig(), model, (), DistillSettings(), 1, tmp_path)
    written = json.loads((job / "job.json").read_text())
    assert _context(job, written, leads=False).basis == told["basis"]
