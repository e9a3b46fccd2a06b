"""What OpenVINO really ran, from the graph that it made; pushed beside runtime.py, standard library alone."""

from __future__ import annotations

from collections import Counter
from typing import Any, Tuple  # noqa: UP035 - typing's own, for Python 3.8

_INTEGERS = ("i8", "u8")
_LOWER_FLOATS = ("bf16", "f16")
_WEIGHED = ("Convolution", "GroupConvolution", "MatMul", "ConvolutionBackpropData")
_NO_WORK = ("Input", "Output", "Const")

Weights = Tuple[str, str]  # noqa: UP006 - Python 3.8
"""The constant that holds them, and its type."""


def summarize(nodes: list[dict[str, Any]], weighed: dict[str, Weights], hint: str) -> dict[str, Any]:
    """Executed kernels, counted; `weighed`: from `weighed_layers`; `hint`: the float type asked for."""
    keys = {"ops": "op", "placement": "provider", "precisions": "precision"}
    counts = {name: dict(Counter(node[key] for node in nodes)) for name, key in keys.items()}
    return {**counts, "unexpected": _unexpected(nodes, weighed, hint), "nodes": nodes}


def _unexpected(nodes: list[dict[str, Any]], weighed: dict[str, Weights], hint: str) -> list[str]:
    pairs = [(layer, node) for node in nodes for layer in node["layers"]]
    # A kernel may be called after the dequantization that OpenVINO puts behind the layer.
    computed_by = {**{layer.split("/Dequantization")[0]: node for layer, node in pairs}, **dict(pairs)}
    found = []
    for layer, (constant, kind) in weighed.items():
        node = computed_by.get(layer) or computed_by.get(constant)
        wanted = _INTEGERS if kind in _INTEGERS else ("bf16",) if hint == "bf16" else None
        if wanted is None:
            continue
        has = "int8 weights" if kind in _INTEGERS else "weights for bf16"
        if node is None:
            found.append(f"{layer} has {has}, and no kernel says that it computes it")
        elif node["precision"] not in wanted:
            found.append(f"{layer} ({node['op']}) has {has} and ran in {node['precision']}")
    if hint == "f32":
        found += [
            f"{node['name']} ({node['op']}) ran in {node['precision']}, f32 was asked for"
            for node in nodes
            if node["precision"] in _LOWER_FLOATS
        ]
    return found


def _precision(about: dict[str, str]) -> str:
    """What a kernel computes in: where only weights are stored in half, OpenVINO gives the weights' type."""
    precision = about.get("runtimePrecision", "?")
    on_float32 = about.get("primitiveType", "").lower().endswith("_f32")
    return "f32" if on_float32 and precision in _LOWER_FLOATS else precision


def kernels(executed: Any, device: str, us: dict[str, float]) -> list[dict[str, Any]]:
    """The kernels of one run, in running order, from the graph that OpenVINO made of the model.

    Left out: what has no work at run time, that is inputs and constants, what is computed from constants
    alone when the graph is compiled, and views of the same memory (whose implementation is "unknown").
    """
    constants: set[str] = set()
    found: list[dict[str, Any]] = []
    for node in executed.get_ordered_ops():
        about = {key: str(value.astype(str)) for key, value in node.get_rt_info().items()}
        name, op = node.get_friendly_name(), about.get("layerType", node.get_type_name())
        sources = [port.get_source_output().get_node().get_friendly_name() for port in node.inputs()]
        held = sorted(constants.intersection(sources))
        if op == "Const" or (sources and constants.issuperset(sources)):
            constants.add(name)
        elif op not in _NO_WORK and not about.get("primitiveType", "").startswith("unknown"):
            found.append(
                {
                    "name": name,
                    "op": op,
                    "provider": device,
                    "precision": _precision(about),
                    "kernel": about.get("primitiveType", "?"),
                    "layers": about.get("originalLayersNames", "").split(",") + held,
                    "us": us.get(name, 0),
                }
            )
    return found


def averages(request: Any) -> dict[str, float]:
    """Microseconds of every kernel: the average of all runs of its compiled graph, as OpenVINO keeps it."""
    return {about.node_name: about.real_time.total_seconds() * 1e6 for about in request.profiling_info}


def weighed_layers(model: Any) -> dict[str, Weights]:
    """Names of the operations whose weights are constants, and these."""
    found = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() in _WEIGHED:
            source = node.input_value(1).get_node()
            while source.get_input_size():  # Convert, Subtract, Multiply, Reshape
                source = source.input_value(0).get_node()
            if source.get_type_name() == "Constant":
                kind = source.get_element_type().get_type_name()
                found[node.get_friendly_name()] = (source.get_friendly_name(), kind)
    return found
