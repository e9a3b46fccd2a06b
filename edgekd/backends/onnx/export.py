"""Writes a network as an ONNX file: same network, same bytes, in any folder and process."""

from __future__ import annotations

import copy
import io
import logging
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from edgekd.backends.onnx.baking import METADATA, bake, baked_preprocess
from edgekd.backends.onnx.blame import cannot_be_exported, scope_of
from edgekd.backends.onnx.external_data import (
    DIGEST_KEY,
    ONE_FILE_BYTES,
    move_out,
    replacing_both,
    weight_bytes,
)
from edgekd.backends.onnx.graph_cleaning import clean, count_operators
from edgekd.backends.onnx.onnx_file import COMPANION
from edgekd.backends.onnx.operators import translation_table
from edgekd.backends.source import Source
from edgekd.core.digest import of_bytes
from edgekd.core.errors import ModelError

OPSET = 20
IR_VERSION = 10
INPUT, OUTPUT, BATCH = "input", "logits", "batch"

# Their messages are about the exporter's own choices, and they go to the terminal.
_NOISY_LOGGERS = (
    "torch.onnx",
    "torch.export",
    "torch.fx.experimental.symbolic_shapes",
    "onnxscript",
    "onnx_ir",
)


class Half(nn.Module):
    """The same network in half precision; what it takes and gives stays float32."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).half()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.module(x.half())
        return logits.float()


@runtime_checkable
class Exportable(Protocol):
    """A module that has another form for export (a quantized one)."""

    def exportable(self, dtype: torch.dtype = ...) -> nn.Module: ...


def export(source: Source, path: Path, *, one_file_bytes: int | None = ONE_FILE_BYTES) -> dict[str, Any]:
    """Write the source's module to `path`; returns facts about the graph.

    The graph takes `input` float32 `[batch, C, H, W]` and gives `logits` float32 `[batch, classes]`; `batch`
    is dynamic. With the option `bake_preprocess` it takes uint8 pixels `[batch, H, W, C]` and normalizes them
    as the metadata's `preprocess` says. fp16: weights and arithmetic are of half precision between two casts.
    Weights of more than `one_file_bytes` are beside it (.onnx.data); None: never. Raises `ModelError` when it
    cannot be exported, `StoreError` when it cannot be written.
    """
    with replacing_both(path) as made:
        return write(source, made, one_file_bytes=one_file_bytes)


def write(source: Source, path: Path, *, one_file_bytes: int | None = ONE_FILE_BYTES) -> dict[str, Any]:
    """As `export`, but `path` is written at once: for a folder of the caller's own."""
    module = source.module.exportable() if isinstance(source.module, Exportable) else source.module
    module = Half(module) if source.precision == "fp16" else module
    model = _exported(module, source.input_shape)
    shape, dtype, metadata = [BATCH, *source.input_shape], "float32", dict(source.metadata)
    if source.options.get("bake_preprocess"):
        bake(model, baked_preprocess(metadata, type(source.module).__name__))
        shape, dtype = [shape[0], *shape[2:], shape[1]], "uint8"
        metadata |= METADATA
    _finish(model, metadata)
    beside = one_file_bytes is not None and weight_bytes(model) > one_file_bytes
    if beside:
        move_out(model, path)
    sha256, size = _write_checked(model, path)
    return {
        "sha256": sha256,
        "size_bytes": size,
        **(_companion(model, path, size) if beside else {}),
        "opset": OPSET,
        "ir_version": IR_VERSION,
        "input": {"name": INPUT, "shape": shape, "dtype": dtype},
        "output": {"name": OUTPUT},
        "operators": count_operators(model),
    }


def _exported(module: nn.Module, input_shape: tuple[int, int, int]) -> Any:
    """An `onnx_ir.Model`: captured once, then written here or, where that cannot, by torch's exporter."""
    from torch._dynamo.exc import UserError

    from edgekd.backends.onnx.direct import UnsupportedError, write

    with _evaluating(module), _quiet(), torch.no_grad():
        try:
            program = _captured(module, input_shape)
            try:
                return write(program, OPSET, IR_VERSION)
            except UnsupportedError:
                return _written_by_torch(program)
        except (torch.onnx.OnnxExporterError, UserError, RuntimeError) as error:
            raise cannot_be_exported(error, module) from error


def modules_of(source: Source, operators: Collection[str]) -> dict[str, str]:
    """Operator -> the module of the network that its first node is from, for those of `operators`."""
    module = source.module.exportable() if isinstance(source.module, Exportable) else source.module
    with _evaluating(module), _quiet(), torch.no_grad():
        model = _written_by_torch(_captured(module, source.input_shape))
    found: dict[str, str] = {}
    for node in model.graph:
        if node.op_type in operators:
            found.setdefault(node.op_type, scope_of(node.metadata_props))
    return found


def _captured(module: nn.Module, input_shape: tuple[int, int, int]) -> torch.export.ExportedProgram:
    parameter = next(module.parameters(), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    example = torch.zeros(2, *input_shape, device=device)
    dynamic = ({0: torch.export.Dim(BATCH)},)
    with redirect_stderr(io.StringIO()):  # where it prints the part that it captured before it gave up
        return torch.export.export(module, (example,), dynamic_shapes=dynamic, strict=False)


def _written_by_torch(program: torch.export.ExportedProgram) -> Any:
    result = torch.onnx.export(
        program,
        dynamo=True,
        external_data=False,
        verbose=False,
        opset_version=OPSET,
        custom_translation_table=translation_table(),
    )
    assert result is not None
    return result.model


def _finish(model: Any, metadata: dict[str, str]) -> None:
    clean(model)
    model.metadata_props.update(sorted(metadata.items()))
    model.ir_version = IR_VERSION
    _check_form(model)


def _write_checked(model: Any, path: Path) -> tuple[str, int]:
    """sha256 and bytes of the file, which ONNX's checker and shape inference went through."""
    import onnx
    import onnx_ir as ir

    if weight_bytes(model) > ONE_FILE_BYTES:
        raise ModelError(
            "a file of this backend holds at most 2 GiB", fix="a smaller network, or backend `onnx`"
        )
    data = ir.serde.serialize_model(model).SerializeToString(deterministic=True)
    path.write_bytes(data)
    try:
        onnx.checker.check_model(str(path), full_check=True)  # of a file, for weights beside it
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"the exported graph is not valid ONNX: {error}") from error
    return of_bytes(data), len(data)


def _companion(model: Any, path: Path, size: int) -> dict[str, Any]:
    weights = path.with_suffix(COMPANION).stat().st_size
    about = {"sha256": model.metadata_props[DIGEST_KEY], "size_bytes": weights}
    return {"size_bytes": size + weights, "companions": {COMPANION: about}}


def _check_form(model: Any) -> None:
    """The exporter keeps another opset, or fixes the batch, with no more than a log message."""
    if dict(model.opset_imports) != {"": OPSET}:
        raise ModelError(f"the exporter wrote operator sets {dict(model.opset_imports)}, not {OPSET}")
    for value, name in ((model.graph.inputs[0], INPUT), (model.graph.outputs[0], OUTPUT)):
        value.name = name
        if isinstance(value.shape[0], int):
            raise ModelError(
                f"the network fixes the batch size to {value.shape[0]}",
                fix="use `x.flatten(1)`, not a number of images",
            )
        value.shape = type(value.shape)([BATCH, *value.shape[1:]])


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, training in modes:
            child.training = training


@contextmanager
def _quiet() -> Iterator[None]:
    with ExitStack() as stack:
        for name in _NOISY_LOGGERS:
            stack.enter_context(_at_level(logging.getLogger(name), logging.ERROR))
        yield


@contextmanager
def _at_level(logger: logging.Logger, level: int) -> Iterator[None]:
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
