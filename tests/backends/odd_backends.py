"""Backends with one defect each, made of the `onnx` backend: what the contract must find."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from edgekd.backends.backend import Backend
from edgekd.backends.onnx.backend import BACKEND as ONNX
from edgekd.backends.onnx.export import export as export_onnx
from edgekd.backends.source import Source
from edgekd.core.digest import of_file


def _odd(exporter: str, **changes: Any) -> Backend:
    return replace(ONNX, name="odd", exporter=f"{__name__}:{exporter}", **changes)


def a_little_off(source: Source, path: Path) -> dict[str, Any]:
    """Answers that are off by a part in a thousand."""

    class Off(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = source.module

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) * 1.001

    return export_onnx(replace(source, module=Off()), path)


def float_for_int8(source: Source, path: Path) -> dict[str, Any]:
    """INT8 is asked for, and a float file is written."""
    from edgekd.testing.backend_contract import network

    return export_onnx(replace(source, module=network(), precision="fp32"), path)


def other_bytes(source: Source, path: Path) -> dict[str, Any]:
    return export_onnx(replace(source, metadata={**source.metadata, "id": uuid.uuid4().hex}), path)


def without_metadata(source: Source, path: Path) -> dict[str, Any]:
    return export_onnx(replace(source, metadata={}), path)


def wrong_digest(source: Source, path: Path) -> dict[str, Any]:
    return {**export_onnx(source, path), "sha256": of_file(Path(__file__))}


def leaves_something(source: Source, path: Path) -> dict[str, Any]:
    path.with_suffix(".partial").write_bytes(b"half")
    return export_onnx(source, path)


DEFECTS: dict[str, tuple[Backend, str]] = {
    "a_little_off": (_odd("a_little_off"), "fp32_answers_as_torch_does"),
    "float_for_int8": (_odd("float_for_int8"), "every_precision_runs_as_what_it_is"),
    "other_bytes": (_odd("other_bytes"), "the_same_network_gives_the_same_bytes"),
    "without_metadata": (_odd("without_metadata"), "labels_and_preprocessing_are_in_the_file"),
    "wrong_digest": (_odd("wrong_digest"), "the_facts_are_those_of_the_file"),
    "leaves_something": (_odd("leaves_something"), "nothing_is_left_of_a_failed_export"),
    "another_name": (replace(ONNX, name="onnx-again"), "the_description_is_true"),
}
"""Name -> the backend with the defect, and the check that must find it."""

ODD: Backend = ONNX
"""Put in place by a test."""
