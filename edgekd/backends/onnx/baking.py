"""Puts the preprocessing into a graph: it then takes the pixels that a camera or a decoder gives."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from pydantic import ValidationError

from edgekd.core.errors import ModelError
from edgekd.core.preprocess import Preprocess

METADATA = {
    "layout": "NHWC",
    "input": "uint8 pixels; the graph does what `preprocess` says after resizing",
}
"""What a user of such a graph must know."""


def bake(model: ir.Model, preprocess: Preprocess) -> None:
    """Make `model`, whose input is float32 `[batch, C, H, W]`, take uint8 `[batch, H, W, C]`.

    The operations are those of `Preprocess.apply`, in its order, and so are the results.
    """
    graph = model.graph
    (normalized,) = graph.inputs
    assert normalized.shape is not None  # an input that the exporter declared
    batch, channels, height, width = normalized.shape
    pixels = ir.Value(
        name=f"{normalized.name}_pixels",
        shape=ir.Shape([batch, height, width, channels]),
        type=ir.TensorType(ir.DataType.UINT8),
    )
    first = ir.node("Cast", [pixels], {"to": int(ir.DataType.FLOAT)})
    nodes = [first]
    numbers: dict[str, float | tuple[float, ...]] = {
        "Mul": preprocess.scale,
        "Sub": preprocess.mean,
        "Div": preprocess.std,
    }
    for operation, number in numbers.items():
        constant = _constant(graph, f"preprocess.{operation.lower()}", number)
        nodes.append(ir.node(operation, [nodes[-1].outputs[0], constant]))
    nodes.append(ir.node("Transpose", [nodes[-1].outputs[0]], {"perm": [0, 3, 1, 2]}))
    ir.convenience.replace_all_uses_with(normalized, nodes[-1].outputs[0])
    graph.insert_before(graph[0], nodes)
    graph.inputs[0] = pixels


def _constant(graph: ir.Graph, name: str, number: float | tuple[float, ...]) -> ir.Value:
    tensor = ir.tensor(np.asarray(number, np.float32), name=name)
    kind = ir.TensorType(tensor.dtype)
    value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(tensor.numpy().shape), type=kind)
    graph.register_initializer(value)
    return value


def preprocess_of(metadata: Mapping[str, str]) -> Preprocess | None:
    """What the metadata say of preprocessing; None where they say nothing that is one."""
    try:
        return Preprocess.model_validate(json.loads(metadata["preprocess"]))
    except (KeyError, ValueError, ValidationError):
        return None


def baked_preprocess(metadata: Mapping[str, str], where: str) -> Preprocess:
    """Raises `ModelError` where there is none."""
    found = preprocess_of(metadata)
    if found is None:
        raise ModelError(
            "the graph is to normalize its input, and nothing says how",
            where=where,
            fix="leave out `bake_preprocess`, or give the preprocessing in the source's metadata",
        )
    return found
