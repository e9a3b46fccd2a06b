"""A graph that ONNX Runtime's optimizer `WeightBiasQuantization` breaks: quantizers in half precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STEP = 0.002
"""Of activations. Times the weights' step, it is a float16 of one digit."""


def half_graph(path: Path, kind: type = np.float16) -> Path:
    """Two convolutions of int8 codes, quantizers and biases of `kind`: `input` to `logits`, both float32."""
    generator = np.random.default_rng(0)
    nodes: list[Any] = [
        helper.make_node("Cast", ["input"], ["x"], to=helper.np_dtype_to_tensor_dtype(np.dtype(kind)))
    ]
    stored: dict[str, Any] = {"step": kind(STEP), "zero": np.int8(0)}
    value = "x"
    for number, channels in enumerate((3, 8)):
        weights = generator.normal(0, 0.02, (8, channels, 3, 3))
        steps = np.abs(weights).max((1, 2, 3)) / 127
        stored |= {
            f"w{number}": np.rint(weights / steps[:, None, None, None]).astype(np.int8),
            f"ws{number}": steps.astype(kind),
            f"wz{number}": np.zeros(8, np.int8),
            f"b{number}": generator.normal(0, 0.05, 8).astype(kind),
        }
        nodes += [
            helper.make_node("QuantizeLinear", [value, "step", "zero"], [f"q{number}"]),
            helper.make_node("DequantizeLinear", [f"q{number}", "step", "zero"], [f"x{number}"]),
            helper.make_node(
                "DequantizeLinear", [f"w{number}", f"ws{number}", f"wz{number}"], [f"d{number}"], axis=0
            ),
            helper.make_node("Conv", [f"x{number}", f"d{number}", f"b{number}"], [f"y{number}"]),
            helper.make_node("Relu", [f"y{number}"], [f"r{number}"]),
        ]
        value = f"r{number}"
    stored["v"] = generator.normal(0, 0.3, (4, 8)).astype(kind)
    nodes += [
        helper.make_node("GlobalAveragePool", [value], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "v"], ["scores"], transB=1),
        helper.make_node("Cast", ["scores"], ["logits"], to=TensorProto.FLOAT),
    ]
    made = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))
    return path
