"""From a captured torch program to the bytes of a .pte: XNNPACK's delegate, and nothing outside of it."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from edgekd.core.errors import ModelError

METADATA_METHOD = "edgekd_metadata"
"""A method of the program without inputs that gives the metadata as JSON text."""

_NOISY_LOGGERS = ("torch.export", "torch.fx", "torchao", "executorch", "torch.utils._pytree")


def lower(
    program: ExportedProgram, *, metadata: Mapping[str, str] | None = None, allow_outside: bool = False
) -> bytes:
    """The .pte of `program`.

    Raises `ModelError` that names each operator XNNPACK does not take and the module that called it, unless
    `allow_outside`: those run in ExecuTorch's portable kernels, which are slow reference code.
    """
    with quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        constants = {METADATA_METHOD: json.dumps(dict(metadata), sort_keys=True)} if metadata else None
        try:
            edge = to_edge_transform_and_lower(
                program, partitioner=[XnnpackPartitioner()], constant_methods=constants
            )
            left = operators_outside(edge.exported_program().graph)
            if left and not allow_outside:
                raise ModelError(
                    f"XNNPACK does not take {'; '.join(left)}",
                    fix="replace these operations, or export with `allow_outside`",
                )
            return bytes(edge.to_executorch().buffer)
        except (RuntimeError, ValueError, AssertionError, NotImplementedError) as error:
            first_line = str(error).strip().splitlines()[:1]
            raise ModelError(f"cannot be lowered to ExecuTorch: {' '.join(first_line)}") from error


def operators_outside(graph: fx.Graph) -> list[str]:
    """`operator in module` of every call that is no delegate's."""
    found = []
    for node in graph.nodes:
        name = str(getattr(node.target, "__name__", node.target))
        if node.op == "call_function" and name not in ("executorch_call_delegate", "getitem"):
            found.append(f"`{name}` in {_maker(node)}")
    return found


def _maker(node: fx.Node) -> str:
    """The module, and the line of source, that a node is from, as far as torch has kept them."""
    stack = node.meta.get("nn_module_stack") or {}
    path, kind = list(stack.values())[-1] if stack else ("", "")
    lines = [line.strip() for line in str(node.meta.get("stack_trace") or "").splitlines() if line.strip()]
    module = f"`{path}`" if path else "the network itself"
    kind_name = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
    return f"{module} ({kind_name.rpartition('.')[2]})" + (f": {lines[-1]}" if lines else "")


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


def constant(module: fx.GraphModule, value: torch.Tensor) -> fx.Node:
    """A new buffer of `module`, and the node that reads it (at the graph's insertion point)."""
    name = f"edgekd_constant_{sum(1 for _ in module.buffers())}"
    module.register_buffer(name, value)
    return module.graph.get_attr(name)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the converter's warnings about its own future, and its log of choices it makes."""
    levels = [(logging.getLogger(name), logging.getLogger(name).level) for name in _NOISY_LOGGERS]
    for logger, _ in levels:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in levels:
            logger.setLevel(level)
