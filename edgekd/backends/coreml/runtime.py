"""Runs a Core ML program on a Mac: standard library, NumPy and coremltools, Python 3.8 and newer.

This file is pushed beside the agent and imported by path, so it imports nothing of edgekd; what the agent
asks of it is said in `edgekd/backends/onnx/runtime.py`.

NOT EXECUTED: written from coremltools' documentation (`MLModel`, `predict`, `MLComputePlan`); no Mac has run
it. What the file is, is checked anywhere; loading it is refused anywhere but on macOS.
"""

from __future__ import annotations

import atexit
import logging
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

INPUT, OUTPUT = "input", "logits"
COMPUTE_UNITS = ("CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE", "ALL")
_FOLDER = "model.mlpackage"
_NAMES = (
    _FOLDER + "/Manifest.json",
    _FOLDER + "/Data/com.apple.CoreML/model.mlmodel",
    _FOLDER + "/Data/com.apple.CoreML/weights/weight.bin",
)
_MAX_BYTES = 4 << 30


class ArtifactError(Exception):
    """The file is not a program that may be run here."""


class FallbackError(Exception):
    """The runtime would run the program somewhere else, or otherwise, than asked."""


class Unavailable(RuntimeError):
    """What runs such programs is not on this machine."""


def versions() -> dict[str, str]:
    """Raises `Unavailable` anywhere but on macOS."""
    import platform

    coremltools = _coremltools()
    return {"coremltools": coremltools.__version__, "macos": platform.mac_ver()[0], "numpy": np.__version__}


def load(path: str, threads: int = 1, batch: int = 1, options: dict[str, Any] | None = None) -> Graph:
    """Open the zip of an .mlpackage at `path`.

    `options`: `compute_units` (default "CPU_ONLY"), `threads`: "any", since Core ML has no way to set their
    number, and without this option any number that is asked for is refused. Raises `ArtifactError` for a
    truncated, hostile or unsuitable file, `Unavailable` anywhere but on macOS, `FallbackError` where Core ML
    would not do as asked.
    """
    check_file(Path(path))
    return Graph(path, threads, batch, options or {})


class Graph:
    """A loaded program: one float32 input of `input_shape` (`[1, C, H, W]`), its output the logits."""

    def __init__(self, path: str, threads: int, batch: int, options: dict[str, Any]) -> None:
        coremltools = _coremltools()
        if options.get("threads") != "any":
            raise FallbackError(f"{threads} threads were asked for, Core ML chooses: say `threads: any`")
        self.compute_units = _compute_units(options)
        folder = _unpacked(Path(path))
        try:
            units = coremltools.ComputeUnit[self.compute_units]
            self._model = coremltools.models.MLModel(str(folder), compute_units=units)
        except Exception as error:  # the proxy to Core ML raises RuntimeError; what else, is not documented
            raise ArtifactError(f"Core ML refuses the program: {error}") from error
        self.operators = _operators(self._model.get_spec())
        self.input_shape = _input_shape(self._model.get_spec(), batch)
        self.dtype = np.dtype("float32")

    def run(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """float32 `[1, C, H, W]` to the logits `[1, classes]`."""
        logits: npt.NDArray[Any] = self._model.predict({INPUT: x})[OUTPUT]
        return np.asarray(logits, np.float32)

    def profile(self, x: npt.NDArray[Any] | None = None) -> dict[str, Any]:
        """What the program says; where each operation ran is Core ML's choice among `compute_units`.

        So `placement` has those units alone, `precisions` is empty, and `source` says whose word it is.
        """
        count = sum(self.operators.values())
        found: dict[str, Any] = {"ops": self.operators, "placement": {self.compute_units: count}}
        return {**found, "precisions": {}, "unexpected": [], "source": "program"}

    def layers(self, inputs: list[npt.NDArray[Any]], warm_up: int) -> list[dict[str, Any]]:
        """Nothing: Core ML gives no times of single operations to Python."""
        return []


def check_file(path: Path) -> None:
    """Raises `ArtifactError` unless `path` is a whole zip of the files of one .mlpackage and nothing else."""
    if not path.is_file():
        raise ArtifactError(f"there is no file {path.name}")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            # Checked before a byte of them is read: no other name, no bomb, nothing twice.
            if sorted(names) not in (sorted(_NAMES[:2]), sorted(_NAMES)):
                raise ArtifactError(f"not the zip of an .mlpackage: it holds {names[:5]}")
            if any(e.compress_type != zipfile.ZIP_STORED or e.flag_bits & 1 for e in entries):
                raise ArtifactError("its files are compressed or encrypted, which edgekd does not write")
            if sum(entry.file_size for entry in entries) > min(_MAX_BYTES, path.stat().st_size):
                raise ArtifactError("its files are larger than itself")
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError, EOFError) as error:
        raise ArtifactError(f"not a zip, or cut short: {error}") from error
    if damaged is not None:
        raise ArtifactError(f"{damaged} in it is damaged")


def _coremltools() -> Any:
    if sys.platform != "darwin":
        raise Unavailable("Core ML runs on macOS and iOS only: numerics and speed are not measured")
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    import coremltools

    return coremltools


def _compute_units(options: dict[str, Any]) -> str:
    units = str(options.get("compute_units") or COMPUTE_UNITS[0])
    if units not in COMPUTE_UNITS:
        raise FallbackError(f"compute_units {units!r} is none of {', '.join(COMPUTE_UNITS)}")
    return units


def _unpacked(path: Path) -> Path:
    """The .mlpackage as the folder that Core ML wants, until this process ends."""
    folder = tempfile.mkdtemp(prefix="edgekd-coreml-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():  # `check_file` knows them all
            target = Path(folder, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(name))
    return Path(folder, _FOLDER)


def _operators(spec: Any) -> dict[str, int]:
    function = spec.mlProgram.functions["main"]
    counts: dict[str, int] = {}
    for operation in function.block_specializations[function.opset].operations:
        if operation.type != "const":
            counts[operation.type] = counts.get(operation.type, 0) + 1
    return counts


def _input_shape(spec: Any, batch: int) -> tuple[int, ...]:
    inputs = {one.name: tuple(one.type.multiArrayType.shape) for one in spec.description.input}
    if list(inputs) != [INPUT] or OUTPUT not in [one.name for one in spec.description.output]:
        raise ArtifactError(f"the program takes {list(inputs)}, not `{INPUT}`, or gives no `{OUTPUT}`")
    if inputs[INPUT][:1] != (batch,):
        raise ArtifactError(f"the batch is fixed to {inputs[INPUT][:1]}, {batch} was asked for")
    return inputs[INPUT]
