"""Writes a network as a .tflite file through LiteRT's converter, which runs in its own Python."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

# Fails at once without the extra; it also reads the file that was written.
import ai_edge_litert  # noqa: F401
import numpy as np
import torch
from torch import nn

from edgekd.backends.capture import captured, foreign_operators
from edgekd.backends.litert import environment
from edgekd.backends.litert.conversion import convert
from edgekd.backends.source import Source
from edgekd.core.digest import of_bytes
from edgekd.core.durable import write_bytes
from edgekd.core.errors import DataError, ModelError

LAYOUT = "NHWC"
"""Of the file's input: what cameras give, and what every tool for .tflite expects."""


@runtime_checkable
class Exportable(Protocol):
    """A module that has another form for export (a quantized one)."""

    def exportable(self) -> nn.Module: ...


class ChannelsLast(nn.Module):
    """The same network for images `[N, H, W, C]`."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(x.permute(0, 3, 1, 2))
        return logits


def export(source: Source, path: Path) -> dict[str, Any]:
    """Write `source` to `path`; returns facts about the file.

    It takes `input` `[1, H, W, C]` and gives `logits` `[1, classes]`; `batch` "any" says that LiteRT can
    resize it. Trained int8 has an int8 input and float32 logits; int8 by LiteRT's own calibration has int8
    at both ends. fp16: weights of half precision, float32 ends and, in XNNPACK, float32 arithmetic. Raises
    `MissingEnvironmentError`, `ModelError` naming the operator and module, `StoreError`.
    """
    form = _form(source)
    versions = environment.versions()
    with tempfile.TemporaryDirectory(prefix="edgekd-litert-") as name:
        folder = Path(name)
        with _evaluating(source.module), torch.no_grad():
            program = _program(source)
            torch.export.save(program, folder / "program.pt2")
        request = {
            "program": "program.pt2",
            "out": "model.tflite",
            "precision": "trained" if form == "trained" else source.precision,
            "images": _written(source, folder) if form == "native-ptq" else [],
            "metadata": {**source.metadata, "layout": LAYOUT},
        }
        answer = convert(
            request, folder, suspects=lambda: foreign_operators(program.run_decompositions().graph, "network")
        )
        data = (folder / "model.tflite").read_bytes()
        facts = {**_facts(source, folder / "model.tflite", data), "batch": answer["batch"]}
    write_bytes(path, data)
    integers = {"precision": "int8", "int8_form": form} if form else {}
    return {**facts, **integers, "converter": versions}


def _form(source: Source) -> str | None:
    """Where the integers are from; None: there are none. Raises `ModelError` for what cannot be."""
    trained = isinstance(source.module, Exportable)
    if trained and source.precision == "fp16":
        raise ModelError("a network that was trained in int8 has no fp16 form", choices=("int8",))
    if trained:
        return "trained"
    if source.precision == "int8" and source.calibration is None:
        raise ModelError(
            "int8 needs trained quantizers or images to calibrate with", fix="quantize it first, or give data"
        )
    return "native-ptq" if source.precision == "int8" else None


def _program(source: Source) -> torch.export.ExportedProgram:
    module = source.module
    network = module.exportable() if isinstance(module, Exportable) else module
    channels, height, width = source.input_shape
    example = torch.zeros(1, height, width, channels)
    program = captured(ChannelsLast(network).eval(), example, to="LiteRT", network=network)
    if network is module:
        return program
    from edgekd.backends.litert.trained_form import rewrite

    graph = program.module(check_guards=False)
    assert isinstance(graph, torch.fx.GraphModule)
    rewrite(graph)
    return captured(graph, example, to="LiteRT")


def _written(source: Source, folder: Path) -> list[str]:
    """Names of the files with the images to calibrate with, `[N, H, W, C]`."""
    assert source.calibration is not None  # `_form`
    names = []
    for number, batch in enumerate(source.calibration()):
        names.append(f"images{number}.npy")
        images = np.ascontiguousarray(batch.transpose(0, 2, 3, 1), np.float32)
        np.save(folder / names[-1], images, allow_pickle=False)
    if not names:
        raise DataError("there are no images to calibrate with", where="LiteRT's int8")
    return names


def _facts(source: Source, path: Path, data: bytes) -> dict[str, Any]:
    """What LiteRT says of the file, so that a file that it does not run is never an artifact."""
    from edgekd.backends.litert.litert_flatbuffer import ArtifactError
    from edgekd.backends.litert.runtime import FallbackError, load

    try:
        graph = load(str(path))
        found = graph.profile()
    except (ArtifactError, FallbackError) as error:
        raise ModelError(
            f"what LiteRT's converter made of the network cannot be run: {error}",
            fix="use the onnx backend for this network",
        ) from error
    given, answer = graph.ends()
    channels, height, width = source.input_shape
    return {
        **source.facts(),
        "sha256": of_bytes(data),
        "size_bytes": len(data),
        "input": {"name": "input", "shape": [1, height, width, channels], "layout": LAYOUT, **given},
        "output": {"name": "logits", **answer},
        "operators": found["ops"],
        "placement": found["placement"],
        "precisions": found["precisions"],
        "delegate_calls": found["delegate_calls"],
    }


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, training in modes:
            child.training = training
