"""The networks a recipe may name, and how one is built from its plain-data spec."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, ValidationError, validate_call
from torch import nn

from edgekd.core.errors import EdgekdError, ModelError, UsageError
from edgekd.core.spec import NetworkSpec
from edgekd.networks.code_file import is_code, load_function
from edgekd.networks.names import NETWORKS, Builder

ONNX = "onnx"

LIBRARIES = ("torchvision", "timm")
"""`library/model` is short for the name `library` with the argument `model`."""


def build(spec: NetworkSpec, *, trust_code: bool = False, files_root: Path | None = None) -> nn.Module:
    """The network of `spec`, in training mode, on the CPU; the global random state is left as it was.

    `file.py:function` runs only with `trust_code`; a relative file (code, ONNX) is looked up in `files_root`
    (default: the working folder). Weights are whatever the builder made: `init_weights` or load others.
    Raises `ModelError` for an unknown name or bad arguments, listing the legal ones.
    """
    builder, args = _builder(spec, trust_code, files_root)
    _check_names(spec.name, builder, args)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = _checked(builder)(num_classes=spec.num_classes, in_channels=spec.in_channels, **args)
    except EdgekdError:
        raise
    except ValidationError as error:
        raise ModelError(_problems(error), where=f"network `{spec.name}`") from error
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise ModelError(f"cannot build: {error}", where=f"network `{spec.name}`") from error
    return module


def legal_arguments(name: str) -> dict[str, inspect.Parameter]:
    """The arguments that a registered network takes beside `num_classes` and `in_channels`."""
    return _arguments(NETWORKS.load(name.partition("/")[0]))


def _builder(spec: NetworkSpec, trust_code: bool, files_root: Path | None) -> tuple[Builder, dict[str, Any]]:
    if is_code(spec.name):
        if not trust_code:
            raise ModelError(
                f"`{spec.name}` is a Python file, and building it runs the code in it",
                fix="read the file; if you trust it, write `trust_code: true` in the recipe",
            )
        return load_function(spec.name, files_root), spec.args
    library, _, model = spec.name.partition("/")
    if library in LIBRARIES and model:
        return NETWORKS.load(library), {"model": model, **spec.args}
    try:
        return NETWORKS.load(spec.name), _with_root(spec, files_root)
    except UsageError as error:
        raise ModelError(error.what, where=error.where, choices=error.choices, fix=error.fix) from error


def _with_root(spec: NetworkSpec, files_root: Path | None) -> dict[str, Any]:
    if spec.name != ONNX or not isinstance(spec.args.get("file"), str):
        return spec.args
    return {**spec.args, "file": str((files_root or Path.cwd()) / spec.args["file"])}


def _arguments(builder: Builder) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(builder).parameters
    return {name: p for name, p in parameters.items() if name not in ("num_classes", "in_channels")}


def _described(arguments: dict[str, inspect.Parameter]) -> list[str]:
    empty = inspect.Parameter.empty
    return [name if p.default is empty else f"{name} = {p.default!r}" for name, p in arguments.items()]


def _check_names(name: str, builder: Builder, args: dict[str, Any]) -> None:
    legal = _arguments(builder)
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in legal.values()):
        return
    for key in args:
        if key not in legal:
            raise ModelError(
                f"`{key}` is not an argument", where=f"network `{name}`", choices=_described(legal)
            )


def _checked(builder: Builder) -> Builder:
    """The builder with its arguments checked against its annotations: `depth: "20"` is an error."""
    return validate_call(config=ConfigDict(strict=True, arbitrary_types_allowed=True))(builder)


def _problems(error: ValidationError) -> str:
    details = [f"`{'.'.join(map(str, e['loc']))}` = {e['input']!r}: {e['msg']}" for e in error.errors()]
    return "bad arguments: " + "; ".join(details)
