"""Says at which module of a network torch's exporter gave up, why, and what to do about it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

from torch import fx, nn

from edgekd.core.errors import ModelError

_SCOPES = "pkg.torch.onnx.name_scopes"
_UNSUPPORTED = re.compile(r"No ONNX function found for <OpOverload\(op='([^']+)'")
_DATA_DEPENDENT = ("data-dependent", "guard on", "unbacked symint")
_REPLACE = "replace it by operations that ONNX has, or leave it to the code around the network"
_NO_DECISION = "compute both and choose with `torch.where`, or take the decision out of the network"
_ONLY_TORCH = "what a network computes must be torch operations on tensors"


def cannot_be_exported(error: Exception, network: nn.Module, *, to: str = "ONNX") -> ModelError:
    """The `ModelError` for what `torch.export` or torch's ONNX exporter raised over `network`.

    to: the format, in words.
    """
    chain = [*_chain(error)]
    where = type(network).__name__
    operator = next((found[1] for one in chain if (found := _UNSUPPORTED.search(str(one)))), None)
    if operator is not None:
        return ModelError(f"ONNX has no `{operator}`{_at_node(chain)}", where=where, fix=_REPLACE)
    said = _first_line(chain[-1])
    place = _at_module(chain, network)
    if any(word in str(one) for one in chain for word in _DATA_DEPENDENT):
        what = f"what it computes depends on the values of its input{place}: {said}"
        return ModelError(f"cannot be exported to {to}: {what}", where=where, fix=_NO_DECISION)
    return ModelError(f"cannot be exported to {to}{place}: {said}", where=where, fix=_ONLY_TORCH)


def scope_of(metadata: Mapping[str, str]) -> str:
    """The innermost module that a node of torch's exporter is from; empty where it does not say."""
    try:
        scopes = ast.literal_eval(metadata.get(_SCOPES, "[]"))
    except (ValueError, SyntaxError):
        return ""
    *modules, _ = scopes or [""]  # the last is the node itself
    return str(modules[-1]) if modules else ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _frames(chain: list[BaseException]) -> Iterator[FrameType]:
    for error in chain:
        traceback = error.__traceback__
        while traceback is not None:
            yield traceback.tb_frame
            traceback = traceback.tb_next


def _at_node(chain: list[BaseException]) -> str:
    """By the node of the captured graph that could not be translated."""
    nodes = [frame.f_locals.get("node") for frame in _frames(chain)]
    stacks = [node.meta.get("nn_module_stack") for node in nodes if isinstance(node, fx.Node)]
    for stack in reversed([stack for stack in stacks if stack]):
        path, kind = [*stack.values()][-1]
        return _named(path, kind)
    return ""


def _at_module(chain: list[BaseException], network: nn.Module) -> str:
    """By the innermost module of the network whose code was running."""
    names = {id(module): (name, module) for name, module in network.named_modules()}
    found: tuple[str, Any] | None = None
    for frame in _frames(chain):
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module):
            found = names.get(id(owner), found)
    return "" if found is None or not found[0] else _named(found[0], type(found[1]))


def _named(path: str, kind: Any) -> str:
    name = kind.__name__ if isinstance(kind, type) else str(kind).rpartition(".")[2]
    return f" at `{path}` ({name})" if path else f" at the network itself ({name})"
