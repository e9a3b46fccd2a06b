"""Captures a network as a graph of torch's operators, or says which module cannot be captured, and why."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

import torch
from torch import fx, nn

from edgekd.core.errors import ModelError

_NOISY_LOGGERS = (
    *("torch.export", "torch.fx", "torch.fx.experimental.symbolic_shapes", "torch.utils._pytree"),
    *("torchao", "executorch"),
)
_OURS = ("edgekd", "quantized_decomposed")
_STATIC = "keep a fixed number of values (`torch.topk`, a mask), or take the choice out of the network"


def captured(
    module: nn.Module, example: torch.Tensor, *, to: str, network: nn.Module | None = None
) -> torch.export.ExportedProgram:
    """`module` as it computes `example`, for a file of `to`.

    Raises `ModelError` that names the module of `network` (default: `module` itself) that looks at the values
    of its input, gives a tensor whose shape depends on them, or computes with something else than tensors.
    """
    from edgekd.backends.onnx.blame import cannot_be_exported

    try:
        with quiet():
            program = torch.export.export(module, (example,), strict=False)
    except Exception as error:  # torch raises what its passes raise, without a base of its own
        raise cannot_be_exported(error, network or module, to=to) from error
    _check_shapes(program, to, module, network or module)
    return program


def foreign_operators(graph: fx.Graph, below: str = "") -> list[str]:
    """`operator in module` of every call that few runtimes know: not of Core ATen, or of complex numbers.

    below: the network's own name in what was captured, which its modules are told without.
    """
    return [f"`{node.target}` in {maker_of(node, below)}" for node in graph.nodes if _is_foreign(node)]


def maker_of(node: fx.Node, below: str = "") -> str:
    """The module, and the line of source, that a node is from, as far as torch has kept them."""
    stack = node.meta.get("nn_module_stack") or {}
    path, kind = [*stack.values()][-1] if stack else ("", "")
    path = "" if path == below else path.removeprefix(f"{below}.")
    lines = [line.strip() for line in str(node.meta.get("stack_trace") or "").splitlines() if line.strip()]
    module = f"`{path}`" if path else "the network itself"
    kind_name = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
    return f"{module} ({kind_name.rpartition('.')[2]})" + (f": {lines[-1]}" if lines else "")


def _check_shapes(
    program: torch.export.ExportedProgram, to: str, module: nn.Module, network: nn.Module
) -> None:
    below = next((name for name, one in module.named_modules() if one is network), "")
    for node in program.graph.nodes:
        if node.op == "call_function" and _depends_on_values(node.meta.get("val")):
            said = f"the shape of what `{node.target}` gives depends on the values of the input"
            raise ModelError(
                f"cannot be exported to {to}: {said}, in {maker_of(node, below)}",
                where=type(network).__name__,
                fix=_STATIC,
            )


def _depends_on_values(value: object) -> bool:
    from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

    known = isinstance(value, torch.Tensor | torch.SymInt | list | tuple)
    return known and bool(free_unbacked_symbols(value))


def _is_foreign(node: fx.Node) -> bool:
    target, value = node.target, node.meta.get("val")
    if not isinstance(target, torch._ops.OpOverload) or target.namespace in _OURS:
        return False
    is_complex = isinstance(value, torch.Tensor) and value.dtype.is_complex
    return is_complex or torch.Tag.core not in target.tags


@contextmanager
def quiet() -> Iterator[None]:
    """Without torch's warnings about its own future, its log of choices, and a graph that it gives up."""
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
