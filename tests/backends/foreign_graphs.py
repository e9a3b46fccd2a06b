"""Tiny graphs with the doors that other people's files have; all compute the same from the same image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WEIGHT = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
IMAGES = np.random.default_rng(1).integers(0, 256, (5, 3, 6, 6)).astype(np.float32)


def expected(x: np.ndarray) -> np.ndarray:
    """`[N, 3, H, W]` to `[N, 4]`."""
    return np.asarray(x.mean(axis=(2, 3)) @ WEIGHT)


def graph(
    path: Path,
    *,
    shape: list[Any] | None = None,
    kind: int = TensorProto.FLOAT,
    channels_last: bool = False,
    outputs: list[str] | None = None,
    flat: bool = True,
    external: bool = False,
    extra: list[Any] | None = None,
    inputs: list[Any] | None = None,
) -> Path:
    """`outputs`: names of "scores" and "pooled" in order; `flat` False: scores are `[N, 4, 1, 1]`."""
    nodes, value = [], "x"
    if kind != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", [value], ["xf"], to=TensorProto.FLOAT))
        value = "xf"
    if channels_last:
        nodes.append(helper.make_node("Transpose", [value], ["xt"], perm=[0, 3, 1, 2]))
        value = "xt"
    nodes += [
        helper.make_node("ReduceMean", [value, "axes"], ["pooled"], keepdims=0),
        helper.make_node("MatMul", ["pooled", "w"], ["scores"]),
        *(extra or []),
    ]
    if not flat:
        nodes.append(helper.make_node("Unsqueeze", ["scores", "axes"], ["scores4"]))
    shapes = {"scores": ["N", 4], "pooled": ["N", 3], "scores4": ["N", 4, 1, 1], "best": ["N"]}
    kinds = {"best": TensorProto.INT64}
    names = outputs or (["scores"] if flat else ["scores4"])
    first = helper.make_tensor_value_info("x", kind, shape or ["N", 3, "H", "W"])
    made = helper.make_graph(
        nodes,
        "g",
        [first, *(inputs or [])],
        [helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), shapes[n]) for n in names],
        [numpy_helper.from_array(WEIGHT, "w"), numpy_helper.from_array(np.array([2, 3]), "axes")],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(
        model,
        str(path),
        save_as_external_data=external,
        location="w.bin" if external else None,
        size_threshold=0,
    )
    return path
