"""Ways to spoil or to rewrap a graph that the cases share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from planted.zoo import IR, OPSET, Graph, Net, built

Array = npt.NDArray[Any]


def after(graph: Graph, *nodes: Any, **weights: Array) -> Graph:
    """The graph with nodes behind its logits, which they find as `raw`; the last one gives `logits`."""
    graph = graph.copy()
    graph.nodes = [_renamed(node, "logits", "raw") for node in graph.nodes]
    graph.nodes += nodes
    graph.weights |= weights
    return graph


def before(graph: Graph, *nodes: Any, **weights: Array) -> Graph:
    """The graph with nodes in front of it, the last of which gives `fed`."""
    graph = graph.copy()
    graph.nodes = [*nodes, *(_renamed(node, "input", "fed") for node in graph.nodes)]
    graph.weights |= weights
    return graph


def _renamed(node: Any, old: str, new: str) -> Any:
    made = onnx.NodeProto()
    made.CopyFrom(node)
    for names in (made.input, made.output):
        for position, name in enumerate(names):
            if name == old:
                names[position] = new
    return made


def ports(
    graph: Graph,
    path: Path,
    *,
    input_type: int = TensorProto.FLOAT,
    input_shape: list[Any] | None = None,
    outputs: list[tuple[str, int, list[Any]]] | None = None,
    opset: int = OPSET,
    ir: int = IR,
    listed: bool = False,
    external: str | None = None,
) -> Path:
    """The graph with other words at its door; `listed`: weights among the inputs, as in old files."""
    first = helper.make_tensor_value_info("input", input_type, input_shape or ["batch", *graph.shape])
    given = outputs or [("logits", TensorProto.FLOAT, [graph.batch, graph.num_classes])]
    tensors = [numpy_helper.from_array(value, name) for name, value in graph.weights.items()]
    weights = [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in tensors] if listed else []
    made = helper.make_graph(
        graph.nodes,
        "graph",
        [first, *weights],
        [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in given],
        tensors,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    onnx.save(
        model,
        str(path),
        save_as_external_data=external is not None,
        location=external,
        size_threshold=0,
    )
    return path


def node(kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
    return helper.make_node(kind, inputs, outputs, f"{kind}_{outputs[0]}", **attributes)


# --- integers -----------------------------------------------------------------------------------------------


def quantized(
    net: Net,
    *,
    bits: int = 7,
    per_channel: bool = True,
    act_factor: float = 1.0,
    act_share: float = 1.0,
    graph: Graph | None = None,
) -> Graph:
    """The convolution between quantizers as ONNX Runtime fuses them: uint8 activations, int8 weights.

    `bits` of the weights; `act_factor` spoils the activations' steps, `act_share` is the share of their range
    that is kept (a range that was calibrated on too little clips).
    """
    graph = (graph or built(net)).copy()
    low, high, top = _ranges(net, graph)
    weight = graph.weights.pop("w0")
    limit = 2 ** (bits - 1) - 1
    peak = np.abs(weight).max(axis=(1, 2, 3)) if per_channel else np.full(1, np.abs(weight).max())
    step = np.maximum(peak / limit, 1e-9).astype(np.float32)
    wide = step.reshape(-1, 1, 1, 1)
    graph.weights |= {
        "w0q": np.clip(np.round(weight / wide), -limit, limit).astype(np.int8),
        "w0s": step if per_channel else step.reshape(()),
        "w0z": np.zeros(len(step), np.int8) if per_channel else np.int8(0).reshape(()),
    }
    x_step = (high - low) * act_share / 255
    y_step = top * act_share / 255 * act_factor
    zero = np.clip(round(-low / ((high - low) / 255)), 0, 255)
    graph.weights |= {
        "xs": np.float32(x_step).reshape(()),
        "xz": np.uint8(zero).reshape(()),
        "ys": np.float32(y_step).reshape(()),
        "yz": np.uint8(0).reshape(()),
    }
    conv = next(one for one in graph.nodes if one.name == "conv0")
    conv.input[0], conv.input[1] = "xd", "w0d"
    axis = {"axis": 0} if per_channel else {}
    front = [
        node("QuantizeLinear", ["input", "xs", "xz"], ["xq"]),
        node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        node("DequantizeLinear", ["w0q", "w0s", "w0z"], ["w0d"], **axis),
    ]
    rest = []
    for one in graph.nodes:
        rest.append(one)
        if one.name == "relu0":
            one.output[0] = "r0f"
            rest += [
                node("QuantizeLinear", ["r0f", "ys", "yz"], ["rq"]),
                node("DequantizeLinear", ["rq", "ys", "yz"], ["r0"]),
            ]
    graph.nodes = front + rest
    return graph


def _ranges(net: Net, graph: Graph) -> tuple[float, float, float]:
    """Least and largest input, and the largest output of the first ReLU, over the training half."""
    from planted.zoo import _run

    inputs = net.inputs(net.source.train[0])
    flat = Graph(graph.shape, graph.num_classes, list(graph.nodes), dict(graph.weights))
    flat.nodes = [*flat.nodes[:2], node("Flatten", ["r0"], ["flat"])]
    top = float(_run(flat, "flat", inputs).max())
    return min(0.0, float(inputs.min())), float(inputs.max()), top
