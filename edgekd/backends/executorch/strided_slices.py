"""Slices with steps, which XNNPACK lacks, as convolutions: exact in float32 and in int8."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from edgekd.backends.executorch.writing import constant


def without_strided_slices(module: fx.GraphModule) -> None:
    """Write `x[..., ::n]` of rows and columns as a depthwise convolution with one weight of 1, in place.

    XNNPACK takes no slice with steps; the convolution is exact in float32 and, with the code 1 and the step
    1, in int8 (the shortcuts of CIFAR ResNets are made of such slices).
    """
    for node in list(module.graph.nodes):
        if _stride(node) == (1, 1):
            continue
        source, stride = node.args[0], _stride(node)
        before = source if isinstance(source, fx.Node) else None
        if before is not None and _stride(before) != (1, 1) and len(before.users) == 1:
            continue  # the second of a pair: done together with the first
        last, pair = node, next(iter(node.users), None)
        if len(node.users) == 1 and pair is not None and _stride(pair) != (1, 1):
            last, stride = pair, (stride[0] * _stride(pair)[0], stride[1] * _stride(pair)[1])
        _replace_slice(module, source, last, stride)
    module.graph.eliminate_dead_code()
    module.recompile()


def _stride(node: fx.Node) -> tuple[int, int]:
    """(of rows, of columns) of a slice that starts at 0 and takes every n-th; (1, 1) for anything else."""
    if node.target is not torch.ops.aten.slice.Tensor:
        return 1, 1
    arguments: list[Any] = [*node.args, *(0, None, None, 1)[len(node.args) - 1 :]]
    source, dim, start, end, step = arguments
    value = source.meta.get("val") if isinstance(source, fx.Node) else None
    if value is None or value.ndim != 4 or dim not in (2, 3) or start not in (0, None) or step == 1:
        return 1, 1
    if isinstance(end, int) and end < value.shape[dim]:
        return 1, 1
    return (step, 1) if dim == 2 else (1, step)


def _replace_slice(module: fx.GraphModule, source: Any, last: fx.Node, stride: tuple[int, int]) -> None:
    channels = int(source.meta["val"].shape[1])
    graph = module.graph
    with graph.inserting_before(last):
        is_int8 = "dequantize" in str(source.target) and all(
            "quantize_per_tensor" in str(user.target) for user in last.users
        )
        weight = _ones(module, channels, quantized=is_int8)
        picked = graph.call_function(
            torch.ops.aten.conv2d.default,
            (source, weight, None, list(stride), [0, 0], [1, 1], channels),
        )
    picked.meta = dict(last.meta)
    last.replace_all_uses_with(picked)


def _ones(module: fx.GraphModule, channels: int, *, quantized: bool) -> fx.Node:
    """A weight `[channels, 1, 1, 1]` of ones, as int8 codes with the step 1 where its input has such."""
    ones = torch.ones(channels, 1, 1, 1)
    if not quantized:
        return constant(module, ones)
    codes = constant(module, ones.to(torch.int8))
    steps = constant(module, torch.ones(channels))
    zeros = constant(module, torch.zeros(channels, dtype=torch.int64))
    return module.graph.call_function(
        torch.ops.quantized_decomposed.dequantize_per_channel.default,
        (codes, steps, zeros, 0, -127, 127, torch.int8),
    )
