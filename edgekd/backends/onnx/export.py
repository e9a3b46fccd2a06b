"""Writes a network as an ONNX file: same network, same bytes, in any folder and process."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from edgekd.backends.onnx.graph_cleaning import clean, count_operators
from edgekd.backends.onnx.operators import translation_table
from edgekd.backends.source import Source
from edgekd.core.digest import of_bytes
from edgekd.core.durable import write_bytes
from edgekd.core.errors import ModelError

OPSET = 20
IR_VERSION = 10
INPUT, OUTPUT, BATCH = "input", "logits", "batch"
_LARGEST_BYTES = 2**31 - 1

# Their messages are about the exporter's own choices, and they go to the terminal.
_NOISY_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


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

    def exportable(self) -> nn.Module: ...


def export(source: Source, path: Path) -> dict[str, Any]:
    """Write the source's module to `path`; returns facts about the graph.

    The graph takes `input` float32 `[batch, C, H, W]` and gives `logits` float32 `[batch, classes]`; `batch`
    is dynamic. fp16: weights and arithmetic are of half precision between two casts. Raises `ModelError`
    when it cannot be exported, `StoreError` when it cannot be written.
    """
    module = source.module.exportable() if isinstance(source.module, Exportable) else source.module
    module = Half(module) if source.precision == "fp16" else module
    data, operators = _serialized(_exported(module, source.input_shape), dict(source.metadata))
    write_bytes(path, data)
    return {
        "sha256": of_bytes(data),
        "size_bytes": len(data),
        "opset": OPSET,
        "ir_version": IR_VERSION,
        "input": {"name": INPUT, "shape": [BATCH, *source.input_shape], "dtype": "float32"},
        "output": {"name": OUTPUT},
        "operators": operators,
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
            first_line = str(error.__cause__ or error).strip().splitlines()[:1]
            raise ModelError(
                f"cannot be exported to ONNX: {' '.join(first_line)}", where=type(module).__name__
            ) from error


def _captured(module: nn.Module, input_shape: tuple[int, int, int]) -> torch.export.ExportedProgram:
    parameter = next(module.parameters(), None)
    device = parameter.device if parameter is not None else torch.device("cpu")
    example = torch.zeros(2, *input_shape, device=device)
    dynamic = ({0: torch.export.Dim(BATCH)},)
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


def _serialized(model: Any, metadata: dict[str, str]) -> tuple[bytes, dict[str, int]]:
    import onnx
    import onnx_ir as ir

    clean(model)
    model.metadata_props.update(sorted(metadata.items()))
    model.ir_version = IR_VERSION
    _check_form(model)
    proto = ir.serde.serialize_model(model)
    if proto.ByteSize() > _LARGEST_BYTES:
        raise ModelError("an ONNX file holds at most 2 GiB")
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ModelError(f"the exported graph is not valid ONNX: {error}") from error
    return proto.SerializeToString(deterministic=True), count_operators(model)


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
