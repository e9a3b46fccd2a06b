"""Training on two processes is training on one: same values, same weights, relation terms gathered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from edgekd.core.errors import UsageError
from edgekd.train.world import World

ROOT = Path(__file__).parents[2]
TRAINING = ["-m", "tests.distill.process_training"]
LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def run(out: Path, *command: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.runs
def test_two_processes_train_the_model_that_one_trains(tmp_path: Path) -> None:
    """Two phases, an adapter, per-sample terms and relations between the samples of both processes."""
    methods = ("fitnets", "rkd-d", "sp")
    run(tmp_path, *TRAINING, str(tmp_path), *methods)
    run(tmp_path, *LAUNCHER, *TRAINING, str(tmp_path), *methods)
    alone, both = (json.loads((tmp_path / f"told-{size}.json").read_text()) for size in (1, 2))
    assert (alone["size"], both["size"]) == (1, 2)
    for one, two in zip(alone["history"], both["history"], strict=True):
        assert two == pytest.approx(one, rel=1e-9)
    assert both["accuracy"] == alone["accuracy"]
    assert not [name for name in both["threads"] if "gloo" in name], "they may abort Python's shutdown"
    weights = [safetensors.torch.load_file(tmp_path / f"weights-{size}.safetensors") for size in (1, 2)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-9, atol=1e-12)


def test_a_batch_that_cannot_be_shared_evenly_is_refused() -> None:
    with pytest.raises(UsageError, match="shared evenly by 2 processes"):
        World(0, 2).rows(torch.zeros(5))


def test_rows_are_this_processs_part_in_order() -> None:
    parts = [World(rank, 3).rows(torch.arange(6)).tolist() for rank in range(3)]
    assert parts == [[0, 1], [2, 3], [4, 5]]
