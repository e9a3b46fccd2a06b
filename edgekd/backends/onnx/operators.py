"""The torch operators that stand for ONNX QuantizeLinear and DequantizeLinear, and their translation."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

# torch's exporter has its function library at opset 18 and converts the result to newer opsets.
_TRANSLATION_OPSET = 18


def qdq(x: Tensor, step: float, zero_point: int, low: int, high: int) -> Tensor:
    """Quantize and dequantize a whole tensor: `(clamp(round(x / step) + zp, low, high) - zp) * step`.

    Division and rounding half to even, as ONNX QuantizeLinear; `step` is a value of x's type.
    """
    scale = torch.tensor(step, dtype=x.dtype, device=x.device)
    codes = (x / scale).round_().add_(zero_point).clamp_(low, high)
    return codes.sub_(zero_point).mul_(scale)


def dq(codes: Tensor, step: Tensor, zero_point: Tensor) -> Tensor:
    """Dequantize a constant along axis 0: codes int8 or int32 `[C, ...]`, step float32 or float16 `[C]`.

    `zero_point` (`[C]`, dtype of codes) must be zero. It is there because ONNX Runtime forms QGemm only from
    a DequantizeLinear with an explicit zero point (onnxruntime pull request 28714).
    """
    return codes.to(step.dtype) * step.view([-1] + [1] * (codes.ndim - 1))


# `define` and not `custom_op`, which imports the compiler (two seconds) at the first call.
torch.library.define("edgekd::qdq", "(Tensor x, float step, int zero_point, int low, int high) -> Tensor")
torch.library.define("edgekd::dq", "(Tensor codes, Tensor step, Tensor zero_point) -> Tensor")
torch.library.impl("edgekd::qdq", "CompositeExplicitAutograd", qdq)
torch.library.impl("edgekd::dq", "CompositeExplicitAutograd", dq)
torch.library.register_fake("edgekd::qdq", lambda x, *_: torch.empty_like(x))
torch.library.register_fake("edgekd::dq", lambda codes, step, _: torch.empty_like(codes, dtype=step.dtype))


@cache
def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Operator -> the function that writes its ONNX nodes, for `torch.onnx.export`."""
    import onnx_ir as ir
    from onnxscript import values

    op: Any = values.Opset("", _TRANSLATION_OPSET)

    def translate_qdq(x: Any, step: float, zero_point: int, low: int, high: int) -> Any:
        scale = op.Constant(value=ir.tensor(np.array(step, x.dtype.numpy())))
        zero = op.Constant(value=ir.tensor(np.array(zero_point, np.int8 if low < 0 else np.uint8)))
        return op.DequantizeLinear(op.QuantizeLinear(x, scale, zero), scale, zero)

    def translate_dq(codes: Any, step: Any, zero_point: Any) -> Any:
        return op.DequantizeLinear(codes, step, zero_point, axis=0)

    operators = torch.ops.edgekd
    return {operators.qdq.default: translate_qdq, operators.dq.default: translate_dq}
