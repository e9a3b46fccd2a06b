"""Writes a network as a zip of Core ML's .mlpackage: same network, same bytes, in any folder and process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekd.backends.coreml.conversion import BATCH, DEPLOYMENT, INPUT, OUTPUT, converted
from edgekd.backends.coreml.package import Package, packed, unpacked
from edgekd.backends.source import Source
from edgekd.core.digest import of_bytes
from edgekd.core.durable import write_bytes
from edgekd.core.errors import ModelError

_FLOAT32 = 65568
"""Of `ArrayFeatureType.ArrayDataType` in Core ML's FeatureTypes.proto."""


def export(source: Source, path: Path) -> dict[str, Any]:
    """Write the source's module to `path`; returns facts, read back from the bytes that were written.

    The program takes `input` float32 `[1, C, H, W]` and gives `logits` float32 `[1, classes]`. fp16: weights
    and arithmetic are of half precision between two casts. Nothing has run it: Core ML is on Apple's devices
    only. Raises `ModelError` when it cannot be exported, `StoreError` when it cannot be written.
    """
    if source.precision == "int8" or hasattr(source.module, "exportable"):
        raise ModelError("this backend has no int8", choices=("fp32 of a float network", "fp16 of one"))
    half = source.precision == "fp16"
    data = packed(converted(source.module, source.input_shape, half=half, metadata=source.metadata))
    facts = _facts(unpacked(data), source)
    write_bytes(path, data)
    return {**facts, "sha256": of_bytes(data), "size_bytes": len(data)}


def _facts(package: Package, source: Source) -> dict[str, Any]:
    """Raises `ModelError` when the ends are not those that were wanted."""
    spec, shape = package.spec, [BATCH, *source.input_shape]
    inputs, outputs = ({one.name: _shape(one) for one in end} for end in _ends(spec))
    if inputs != {INPUT: shape} or list(outputs) != [OUTPUT] or len(outputs[OUTPUT]) != 2:
        raise ModelError(f"coremltools wrote a program from {inputs} to {outputs}")
    return {
        "precision": source.precision,
        "input": {"name": INPUT, "shape": shape, "dtype": "float32"},
        "output": {"name": OUTPUT, "shape": outputs[OUTPUT]},
        "batch": BATCH,
        "specification_version": spec.specificationVersion,
        "deployment": DEPLOYMENT,
        "operators": package.operators(),
        "executed": False,
    }


def _ends(spec: Any) -> tuple[Any, Any]:
    return spec.description.input, spec.description.output


def _shape(feature: Any) -> list[int]:
    array = feature.type.multiArrayType
    if array.dataType != _FLOAT32:
        raise ModelError(f"coremltools wrote `{feature.name}` of another type than float32")
    return list(array.shape)
