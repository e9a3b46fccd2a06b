"""Export and answers, as the LiteRT tests use them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgekd.backends.litert import environment
from edgekd.backends.source import Source
from tests.backends.executorch.networks import Exported


def need_environment() -> None:
    """Skip where there is no converter."""
    try:
        environment.versions()
    except environment.MissingEnvironmentError as error:
        pytest.skip(str(error))


def write(folder: Path, source: Source) -> Exported:
    from edgekd.backends.litert.export import export

    path = folder / "network.tflite"
    return Exported(path, export(source, path), source.module)


def logits(path: Path, x: Tensor, *, batch: int = 1) -> np.ndarray:
    from edgekd.backends.litert import runtime

    graph = runtime.load(str(path), batch=batch)
    return np.concatenate([graph.run(x[i : i + batch].numpy()) for i in range(0, len(x), batch)])


@torch.no_grad()
def expected(module: nn.Module, x: Tensor) -> np.ndarray:
    return np.asarray(module(x).numpy())


def errors(exported: Exported, x: Tensor, *, batch: int = 1) -> np.ndarray:
    """Of every logit, in parts of the largest one that torch gives."""
    wanted = expected(exported.module, x)
    return np.asarray(np.abs(logits(exported.path, x, batch=batch) - wanted) / np.abs(wanted).max())


def agreement(exported: Exported, x: Tensor) -> float:
    answers = logits(exported.path, x).argmax(1)
    return float((answers == expected(exported.module, x).argmax(1)).mean())
