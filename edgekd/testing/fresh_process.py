"""One Python process that knows nothing of the training: it loads deployed weights and answers logits."""

from __future__ import annotations

import atexit
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

_READER = """
import json, sys, traceback
import numpy, torch
from safetensors.torch import load_file
from edgekd.testing.tiny_networks import TinyNet

def answer(width, weights, inputs, outputs):
    network = TinyNet(width)
    network.load_state_dict(load_file(weights), strict=True)
    images = torch.from_numpy(numpy.load(inputs, allow_pickle=False))
    with torch.no_grad():
        numpy.save(outputs, network.eval()(images).numpy())

torch.set_num_threads(1)
for line in sys.stdin:
    try:
        answer(*json.loads(line))
        error = None
    except Exception:
        error = traceback.format_exc()
    print(json.dumps(error), flush=True)
"""


class FreshProcess:
    """A reader of weight files, in one thread; every question is answered from files alone."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _READER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def write_logits(self, width: int, weights: Path, inputs: Path, outputs: Path) -> None:
        """`TinyNet(width)` with the weights (safetensors, loaded strictly) on the images (npy), as npy.

        Raises `AssertionError` with the process's traceback.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        print(json.dumps([width, *map(str, (weights, inputs, outputs))]), file=stdin, flush=True)
        line = stdout.readline()
        assert line, f"the fresh process ended with code {self._process.wait()}"
        error = json.loads(line)
        assert error is None, f"in a fresh process:\n{error}"

    def close(self) -> None:
        """Let it end, which closing its input does."""
        self._process.communicate()


@functools.cache
def fresh_process() -> FreshProcess:
    """The one of this session, which serves all methods: starting Python and torch takes seconds."""
    process = FreshProcess()
    atexit.register(process.close)
    return process
