"""Makes an exported graph small and equal for equal models: no paths, no dates, no chance names."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.rewriter import rewrite
from onnxscript.rewriter.rules.common import (
    fuse_batchnorm_into_conv_rule,
    fuse_batchnorm_into_gemm_rule,
)

PRODUCER = "edgekd"


def clean(model: ir.Model) -> None:
    """Rewrite `model` in place: batch norm folded, constants as initializers, no trace of a machine."""
    _pool_globally(model.graph)
    rewrite(model, [fuse_batchnorm_into_conv_rule, fuse_batchnorm_into_gemm_rule])
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedFunctionsPass()(model)  # type: ignore[no-untyped-call]
    common.RemoveUnusedOpsetsPass()(model)
    common.ClearMetadataAndDocStringPass()(model)
    _forget_origin(model)
    _name_by_position(model.graph)


def count_operators(model: ir.Model) -> dict[str, int]:
    """Operator -> number of nodes, sorted by name."""
    return dict(sorted(Counter(node.op_type for node in model.graph).items()))


def _pool_globally(graph: ir.Graph) -> None:
    """ReduceMean over height and width -> GlobalAveragePool, which has an int8 kernel in ONNX Runtime."""
    for node in graph:
        if node.op_type == "ReduceMean" and not node.outputs[0].is_graph_output() and _is_global(node):
            pool = ir.node("GlobalAveragePool", node.inputs[:1])
            graph.insert_before(node, pool)
            ir.convenience.replace_all_uses_with(node.outputs[0], pool.outputs[0])
            graph.remove(node, safe=True)


def _is_global(node: ir.Node) -> bool:
    source, keeps = node.inputs[0], node.attributes.get("keepdims")
    axes = _constant(node.inputs[1]) if len(node.inputs) == 2 else None
    if source is None or source.shape is None or len(source.shape) != 4 or axes is None:
        return False
    return sorted(int(axis) % 4 for axis in axes) == [2, 3] and (keeps is None or keeps.as_int() == 1)


def _constant(value: ir.Value | None) -> list[int] | None:
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else [int(axis) for axis in np.atleast_1d(tensor.numpy())]


def _forget_origin(model: ir.Model) -> None:
    model.producer_name, model.producer_version = PRODUCER, None
    model.domain = model.doc_string = model.model_version = None
    model.metadata_props.clear()
    model.graph.name, model.graph.doc_string = "graph", None
    model.graph.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        _forget(value)
    for node in model.graph:
        _forget(node)
        for value in node.outputs:
            _forget(value)


def _forget(part: ir.Node | ir.Value) -> None:
    part.metadata_props.clear()
    part.doc_string = None
    if isinstance(part, ir.Value) and part.const_value is not None:
        part.const_value.doc_string = None
        part.const_value.metadata_props.clear()


def _name_by_position(graph: ir.Graph) -> None:
    """Nodes and inner values are named by operator and position; initializers keep their module's path."""
    outputs = set(graph.outputs)
    for position, node in enumerate(graph):
        node.name = f"{node.op_type}_{position}"
        for number, value in enumerate(node.outputs):
            if value not in outputs:
                value.name = f"{node.name}:{number}"
                # Runtimes infer inner shapes; writing them costs a tenth of a small network's file.
                value.shape = value.type = None
