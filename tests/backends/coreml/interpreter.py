"""Computes a Core ML program from its bytes, with torch: what the file says, not what a device makes of it.

Written from the definitions of the MIL operations in coremltools' documentation, and only for those that the
networks of these tests become.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgekd.backends.coreml.conversion import INPUT, OUTPUT
from edgekd.backends.coreml.package import Package

_FLOAT16 = 10
"""Of `DataType` in MIL.proto, whose values are stored as bytes."""


def computed(package: Package, x: Tensor) -> Tensor:
    """The logits `[1, classes]` for `x` `[1, C, H, W]`; sums of half precision are made in float32."""
    values: dict[str, Any] = {INPUT: x}
    for operation in package.operations():
        (result,) = operation.outputs
        if operation.type == "const":
            values[result.name] = constant(package, operation)
        else:
            given = {key: values[value.arguments[0].name] for key, value in operation.inputs.items()}
            values[result.name] = _OPERATIONS[operation.type](given)
        _check_shape(result, values[result.name])
    logits: Tensor = values[OUTPUT]
    return logits


def constant(package: Package, operation: Any) -> Any:
    """A tensor, or what is a list, a number or a word in the program."""
    value = operation.attributes["val"]
    kind = value.type.tensorType
    shape = [dimension.constant.size for dimension in kind.dimensions]
    if value.WhichOneof("value") == "blobFileValue":
        assert value.blobFileValue.fileName == "@model_path/weights/weight.bin"
        return torch.from_numpy(package.blob(value.blobFileValue.offset).copy()).reshape(shape)
    tensor = value.immediateValue.tensor
    field = tensor.WhichOneof("value")
    if field == "bytes":
        assert kind.dataType == _FLOAT16
        return torch.from_numpy(np.frombuffer(tensor.bytes.values, "<f2").copy()).reshape(shape)
    found = list(getattr(tensor, field).values)
    if field == "floats":
        return torch.tensor(found).reshape(shape)
    return found if shape else found[0]


def _check_shape(result: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        said = [dimension.constant.size for dimension in result.type.tensorType.dimensions]
        assert list(value.shape) == said, f"{result.name}: {list(value.shape)} and not {said}"


def _number(value: Any) -> float:
    return float(value)


def _borders(given: dict[str, Any]) -> list[int]:
    """(left, right, top, bottom), as `F.pad` wants them."""
    if given["pad_type"] == "valid":
        return [0, 0, 0, 0]
    assert given["pad_type"] == "custom"
    top, bottom, left, right = given["pad"]
    return [left, right, top, bottom]


def _in_float32(function: Callable[..., Tensor], x: Tensor, *weights: Any) -> Tensor:
    wide = [weight.float() if isinstance(weight, Tensor) else weight for weight in weights]
    return function(x.float(), *wide).to(x.dtype)


def _conv(given: dict[str, Any]) -> Tensor:
    x = F.pad(given["x"], _borders(given))

    def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, given["strides"], 0, given["dilations"], given["groups"])

    return _in_float32(convolve, x, given["weight"], given.get("bias"))


def _max_pool(given: dict[str, Any]) -> Tensor:
    x = F.pad(given["x"], _borders(given), value=float("-inf"))
    assert not given["ceil_mode"]
    return F.max_pool2d(x, given["kernel_sizes"], given["strides"])


def _pad(given: dict[str, Any]) -> Tensor:
    assert given["mode"] == "constant"
    pairs = [given["pad"][i : i + 2] for i in range(0, len(given["pad"]), 2)]
    flat = [size for pair in reversed(pairs) for size in pair]
    return F.pad(given["x"], flat, value=_number(given["constant_val"]))


def _slice(given: dict[str, Any]) -> Tensor:
    x = given["x"]
    nothing = [False] * x.ndim
    from_start, to_end = given.get("begin_mask", nothing), given.get("end_mask", nothing)
    assert not any(given.get("squeeze_mask", nothing))
    strides = given.get("stride", [1] * x.ndim)
    index = [
        slice(
            None if from_start[i] else given["begin"][i], None if to_end[i] else given["end"][i], strides[i]
        )
        for i in range(x.ndim)
    ]
    return x[tuple(index)]  # type: ignore[no-any-return]


def _cast(given: dict[str, Any]) -> Tensor:
    return given["x"].to({"fp16": torch.float16, "fp32": torch.float32}[given["dtype"]])  # type: ignore[no-any-return]


_OPERATIONS: dict[str, Callable[[dict[str, Any]], Tensor]] = {
    "add": lambda g: g["x"] + g["y"],
    "cast": _cast,
    "clip": lambda g: g["x"].clamp(_number(g["alpha"]), _number(g["beta"])),
    "conv": _conv,
    "linear": lambda g: _in_float32(F.linear, g["x"], g["weight"], g["bias"]),
    "max_pool": _max_pool,
    "pad": _pad,
    "reduce_mean": lambda g: g["x"].float().mean(g["axes"], keepdim=g["keep_dims"]).to(g["x"].dtype),
    "relu": lambda g: F.relu(g["x"]),
    "reshape": lambda g: g["x"].reshape(g["shape"]),
    "slice_by_index": _slice,
}
