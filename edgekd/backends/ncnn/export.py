"""Writes a network as ncnn's .param and .bin by way of pnnx: same network, same bytes."""

from __future__ import annotations

import copy
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgekd.backends.ncnn.conversion import Converted, converted
from edgekd.backends.ncnn.ncnn_program import INPUT, OUTPUT, Program, read
from edgekd.backends.ncnn.ncnn_text import ArtifactError
from edgekd.backends.ncnn.runtime import load
from edgekd.backends.ncnn.written_form import sealed, write_pair
from edgekd.backends.source import Source
from edgekd.core.digest import of_bytes
from edgekd.core.errors import ModelError

BATCH = 1
"""pnnx takes the axis of the images out of the network, and ncnn runs one at a time."""
_LARGEST_ERROR = 1e-3
"""Of the largest logit. Rounding is a hundredth of it; what is larger was converted to another network."""


def export(source: Source, path: Path) -> dict[str, Any]:
    """Write the module to `path` (.param) and its weights beside it (.bin); returns facts about them.

    The network takes `input` float32 `[C, H, W]` and gives `logits` float32 `[classes]`. It is run once and
    compared with torch before it gets its name, since pnnx does not always say what it could not convert.
    Raises `ModelError` when it cannot be exported, `StoreError` when it cannot be written.
    """
    _check_form(source)
    module = copy.deepcopy(source.module).eval().cpu()
    found = converted(module, source.input_shape)
    param = sealed(found.text, weights=found.weights, metadata=source.metadata)
    with _written_aside(param, found) as aside:
        program = _known(aside, found)
        error = _error(module, aside, source.input_shape)
    write_pair(path, param, found.weights)
    return {
        "precision": source.precision,
        "sha256": of_bytes(param),
        "size_bytes": len(param) + len(found.weights),
        "companions": {".bin": {"sha256": of_bytes(found.weights), "size_bytes": len(found.weights)}},
        "input": {"name": INPUT, "shape": [BATCH, *source.input_shape], "dtype": "float32"},
        "output": {"name": OUTPUT, "shape": [BATCH, *program.output_shape]},
        "batch": BATCH,
        "operators": dict(sorted(Counter(layer.kind for layer in program.layers).items())),
        "error_to_torch": error,
    }


def _check_form(source: Source) -> None:
    if source.precision != "fp32" or hasattr(source.module, "exportable"):
        asked = "quantizers" if source.precision == "fp32" else source.precision
        raise ModelError(f"this backend has no {asked}", choices=("fp32 of a float network",))


@contextmanager
def _written_aside(param: bytes, found: Converted) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="edgekd-ncnn-") as folder:
        path = Path(folder, "model.param")
        path.write_bytes(param)
        path.with_suffix(".bin").write_bytes(found.weights)
        yield path


def _known(path: Path, found: Converted) -> Program:
    """The network as the device will read it; raises `ModelError` that names what cannot be run."""
    try:
        return read(path)
    except ArtifactError as error:
        makers = sorted({maker for name, maker in found.makers.items() if f"`{name}`" in str(error)})
        raise ModelError(
            f"edgekd cannot run what pnnx made of the network: {error}",
            where=makers[0] if makers else None,
            fix="replace that operation, or use the onnx backend for this network",
        ) from error


def _error(module: nn.Module, path: Path, input_shape: tuple[int, int, int]) -> float:
    """Largest difference to torch on one image of noise, as a share of the largest logit."""
    x = torch.randn(BATCH, *input_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = module(x).numpy()
    try:
        actual = load(str(path)).run(x.numpy())
    except ArtifactError as refusal:
        raise ModelError(str(refusal), where=type(module).__name__) from refusal
    largest = float(np.abs(expected).max()) or 1.0
    same_shape = actual.shape == expected.shape
    error = float(np.abs(actual - expected).max()) / largest if same_shape else float("inf")
    if not error <= _LARGEST_ERROR:
        raise ModelError(
            f"pnnx made another network of it: its logits differ by {error:.1g} of the largest",
            where=type(module).__name__,
            fix="use the onnx backend for this network",
        )
    return error
