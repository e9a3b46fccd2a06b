"""The smallest graph that ONNX Runtime can run: what a process needs before any model is in it."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper


def one_node_graph() -> bytes:
    """One Relu over float32 `[batch, 1]`, serialized."""
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 1]) for name in ("input", "logits")
    ]
    graph = helper.make_graph(
        [helper.make_node("Relu", ["input"], ["logits"])], "baseline", ends[:1], ends[1:]
    )
    model: onnx.ModelProto = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10
    )
    graph_bytes: bytes = model.SerializeToString()
    return graph_bytes
