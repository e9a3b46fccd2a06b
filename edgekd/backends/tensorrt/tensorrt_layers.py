"""What an engine holds, in the words of TensorRT's inspector; pushed beside runtime.py."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from .tensorrt_settings import Settings
else:  # on the device, where the files lie side by side
    from tensorrt_settings import Settings

_NO_WORK = ("NoOp", "Constant")
_PRECISIONS = (
    ("bf16", r"bf16|bfloat16"),
    ("fp8", r"fp8"),
    ("int8", r"int8"),
    ("fp16", r"fp16|half"),
    ("fp32", r"fp32|float"),
)
"""In TensorRT's words; the first that is found counts."""


def summarize(information: dict[str, Any], expected: dict[str, str], settings: Settings) -> dict[str, Any]:
    """An engine's layers (the inspector's JSON of 10.x or 11.x), counted.

    `ops` by TensorRT's kind of layer, `placement` by GPU or DLA, `precisions` by what they compute in;
    `unexpected` names what has weights (`expected`: `weighed_layers`) and computes in another precision than
    the file's, or beside the DLA that was asked for; `untold` what no layer says that it computes, or not in
    which precision. `ends` are inputs and outputs.
    """
    nodes = nodes_of(information)
    keys = {"ops": "op", "placement": "provider", "precisions": "precision"}
    counts = {name: dict(Counter(node[key] for node in nodes)) for name, key in keys.items()}
    ends = information.get("I/O Tensors", information.get("Bindings", []))
    names = [end.get("Name", "?") if isinstance(end, dict) else str(end) for end in ends]
    computed_by = {layer: node for node in nodes for layer in node["layers"]}
    told = {layer: node for layer, node in computed_by.items() if node["precision"] != "?"}
    return {
        **counts,
        "unexpected": _unexpected(told, expected, settings),
        "untold": [layer for layer in expected if layer not in told],
        "ends": names,
        "nodes": nodes,
    }


def nodes_of(information: dict[str, Any]) -> list[dict[str, Any]]:
    """Name, op, provider, precision and `layers` (their names in the ONNX file) of what does work."""
    found = []
    for layer in information.get("Layers", []):
        about = layer if isinstance(layer, dict) else {"Name": str(layer)}  # without details: names only
        name, op = str(about.get("Name", "?")), str(about.get("LayerType", "?"))
        if op not in _NO_WORK:
            onnx = re.findall(r"\[ONNX Layer: ([^\]]*)\]", str(about.get("Metadata", "")))
            found.append(
                {
                    "name": name,
                    "op": op,
                    "provider": "DLA" if "DLA" in op.upper() else "GPU",
                    "precision": precision_of(about),
                    "layers": onnx + name.split(" + "),
                }
            )
    return found


def precision_of(layer: dict[str, Any]) -> str:
    """What a layer computes in: by its kernel's name, else by its weights, else by its first input."""
    kernel = str(layer.get("TacticName", "")).lower()
    if re.search(r"i8i8|imma|int8", kernel):
        return "int8"
    if "tf32" in kernel:
        return "tf32"
    weights, inputs = layer.get("Weights"), layer.get("Inputs") or [{}]
    first = inputs[0] if isinstance(inputs[0], dict) else {}
    words = [weights.get("Type", "")] if isinstance(weights, dict) else []
    words += [first.get(key, "") for key in ("Format/Datatype", "DataType", "Datatype", "Format")]
    for word in words:
        for precision, pattern in _PRECISIONS:
            if re.search(pattern, str(word).lower()):
                return precision
    return "?"


def _unexpected(told: dict[str, Any], expected: dict[str, str], settings: Settings) -> list[str]:
    on_gpu = {layer: told[layer] for layer in expected if layer in told and told[layer]["provider"] == "GPU"}
    found = []
    for layer, node in on_gpu.items():
        precision = expected[layer]
        fine = {precision, "tf32"} if settings.tf32 and precision == "fp32" else {precision}
        if node["precision"] not in fine:
            found.append(f"{layer} is {precision} in the file and runs in {node['precision']} ({node['op']})")
        if settings.dla_core is not None:
            found.append(f"{layer} runs on the GPU, DLA core {settings.dla_core} was asked for")
    return found
