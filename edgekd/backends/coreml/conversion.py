"""From a torch module to a Core ML program, with names and bytes that are the same every time."""

from __future__ import annotations

import copy
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgekd.backends.coreml.package import Package
from edgekd.backends.coreml.silent import coremltools as ct
from edgekd.backends.coreml.silent import quiet
from edgekd.core.errors import ModelError

INPUT, OUTPUT = "input", "logits"
BATCH = 1
"""Fixed: the Neural Engine takes no program whose shapes vary."""
DEPLOYMENT = "iOS 17, macOS 14"
_NUMBERED = re.compile(r"const_\d+(\w*)")
_DATE = "com.github.apple.coremltools.conversion_date"


def converted(
    module: nn.Module, input_shape: tuple[int, int, int], *, half: bool, metadata: Mapping[str, str]
) -> Package:
    """A program that takes `input` float32 `[1, C, H, W]` and gives `logits`, also where it computes in half.

    Raises `ModelError` for what torch cannot capture or coremltools cannot convert.
    """
    where = type(module).__name__
    program = _captured(copy.deepcopy(module).eval().cpu(), torch.zeros(BATCH, *input_shape), where)
    with tempfile.TemporaryDirectory(prefix="edgekd-coreml-") as folder:
        model = _by_coremltools(program, Path(folder, "model.mlpackage"), half, where)
        spec = model.get_spec()
        weights = Path(folder, "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin")
        package = Package(spec, weights.read_bytes() if weights.is_file() else b"")
    _name_ends(spec, where)
    _name_constants(package)
    about = spec.description.metadata.userDefined
    del about[_DATE]
    for key, value in metadata.items():
        about[key] = value
    return package


def _captured(module: nn.Module, example: torch.Tensor, where: str) -> torch.export.ExportedProgram:
    from torch._dynamo.exc import UserError

    with quiet(), torch.no_grad():
        try:
            program: torch.export.ExportedProgram = torch.export.export(module, (example,), strict=False)
            decomposed: torch.export.ExportedProgram = program.run_decompositions({})
        except (UserError, RuntimeError) as error:
            raise ModelError(
                f"cannot be captured by torch.export: {_first_line(error)}", where=where
            ) from error
    return decomposed


def _by_coremltools(program: torch.export.ExportedProgram, path: Path, half: bool, where: str) -> Any:
    precision = ct.precision.FLOAT16 if half else ct.precision.FLOAT32
    outputs = [ct.TensorType(name=OUTPUT, dtype=np.float32)]
    try:
        with quiet():
            return ct.convert(
                program,
                outputs=outputs,
                convert_to="mlprogram",
                minimum_deployment_target=ct.target.iOS17,
                compute_precision=precision,
                package_dir=str(path),
                skip_model_load=True,
            )
    except Exception as error:  # coremltools raises what its passes raise, without a base of its own
        raise ModelError(
            f"coremltools cannot convert the network: {_first_line(error)}",
            where=where,
            fix="replace that operation, or use the onnx backend for this network",
        ) from error


def _name_ends(spec: Any, where: str) -> None:
    ends = (spec.description.input, spec.description.output)
    if [len(end) for end in ends] != [1, 1]:
        raise ModelError(f"needs one input and one output, has {[len(end) for end in ends]}", where=where)
    for end, name in zip(ends, (INPUT, OUTPUT), strict=True):
        if end[0].name != name:
            ct.utils.rename_feature(spec, end[0].name, name)


def _name_constants(package: Package) -> None:
    """Number the constants from 0, and call operations as their result.

    coremltools numbers both for the whole process, so that the second export of a network would differ.
    """
    names: dict[str, str] = {}
    for operation in package.operations():
        for result in operation.outputs:
            found = _NUMBERED.fullmatch(result.name)
            if found is not None:
                names[result.name] = f"const_{len(names)}{found[1]}"
            result.name = names.get(result.name, result.name)
        for value in operation.inputs.values():
            for argument in value.arguments:
                argument.name = names.get(argument.name, argument.name)
        called = operation.attributes["name"].immediateValue.tensor.strings
        del called.values[:]
        called.values.append(operation.outputs[0].name)


def _first_line(error: Exception) -> str:
    return " ".join(str(error).strip().splitlines()[:1])[:500]
