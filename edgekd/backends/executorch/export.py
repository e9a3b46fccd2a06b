"""Writes a network as a .pte of ExecuTorch for XNNPACK: same network, same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

# Fails at once without the extra; everything heavy of it is imported when it is used.
import executorch.extension.pybindings  # noqa: F401
import torch
from torch import fx, nn

from edgekd.backends.capture import captured, quiet
from edgekd.backends.executorch import equal_forms
from edgekd.backends.executorch.lowering import lower
from edgekd.backends.executorch.matching_steps import match_steps
from edgekd.backends.executorch.strided_slices import without_strided_slices
from edgekd.backends.source import Source
from edgekd.core.digest import of_bytes
from edgekd.core.durable import write_bytes
from edgekd.core.errors import ModelError

BATCH = 1
"""Fixed: with a dynamic batch XNNPACK leaves `view` and the size that it reads outside of the delegate."""


@runtime_checkable
class Exportable(Protocol):
    """A module that has another form for export (a quantized one)."""

    def exportable(self) -> nn.Module: ...


def export(source: Source, path: Path) -> dict[str, Any]:
    """Write `source` to `path`; returns facts about the program.

    The method `forward` takes float32 `[1, C, H, W]` and gives the logits `[1, classes]`. A network with
    quantizers of its own is int8, whatever the source's precision. Raises `ModelError` for operators that
    XNNPACK does not take (unless the option `allow_outside`), `StoreError` when it cannot be written.
    """
    _check_form(source)
    with _evaluating(source.module), quiet(), torch.no_grad():
        data, int8_form = _serialized(source)
    write_bytes(path, data)
    return _facts(source, path, data, int8_form)


def _serialized(source: Source) -> tuple[bytes, str | None]:
    """(the .pte, where its integers are from)."""
    module = source.module
    network = module.exportable() if isinstance(module, Exportable) else module
    example = torch.zeros(BATCH, *source.input_shape)
    graph, int8_form = _graph(_captured(network, example)), None
    if source.precision == "int8" or network is not module:
        graph, int8_form = _int8(graph, source)
    graph = functional(graph, example)
    equal_forms.rewrite(graph)
    match_steps(graph)
    without_strided_slices(graph)
    program = _captured(graph, example)
    allow_outside = bool(source.options.get("allow_outside"))
    return lower(program, metadata=source.metadata, allow_outside=allow_outside), int8_form


def _int8(graph: fx.GraphModule, source: Source) -> tuple[fx.GraphModule, str]:
    from edgekd.backends.executorch import trained_form
    from edgekd.backends.executorch.native_ptq import quantized

    if isinstance(source.module, Exportable):
        trained_form.rewrite(graph)
        return graph, "trained"
    assert source.calibration is not None  # `_check_form`
    return quantized(graph, source.calibration()), "native-ptq"


def _check_form(source: Source) -> None:
    trained = isinstance(source.module, Exportable)
    if source.precision == "fp16":
        raise ModelError("this backend has no fp16", choices=("fp32", "int8"))
    if source.precision == "int8" and not trained and source.calibration is None:
        raise ModelError(
            "int8 needs trained quantizers or images to calibrate with", fix="quantize it first, or give data"
        )


def functional(module: nn.Module, example: torch.Tensor) -> fx.GraphModule:
    """Captured anew: no operation writes into its input, and every node knows the shape of its result."""
    graph = _graph(_captured(module, example).run_decompositions({}))
    for node in graph.graph.nodes:
        node.meta.pop("from_node", None)  # a history that every further pass copies: a fifth of the time
    return graph


def _captured(module: nn.Module, example: torch.Tensor) -> torch.export.ExportedProgram:
    return captured(module, example, to="ExecuTorch")


def _graph(program: torch.export.ExportedProgram) -> fx.GraphModule:
    graph = program.module(check_guards=False)
    assert isinstance(graph, fx.GraphModule)
    return graph


def _facts(source: Source, path: Path, data: bytes, int8_form: str | None) -> dict[str, Any]:
    from edgekd.backends.executorch.executorch_program import METHOD, read

    program = read(path)
    found = program.summary()
    facts = {
        "precision": "fp32" if int8_form is None else "int8",
        "sha256": of_bytes(data),
        "size_bytes": len(data),
        "input": {"name": "input", "shape": [BATCH, *source.input_shape], "dtype": "float32"},
        "output": {"name": "logits", "shape": list(program.output[0])},
        "batch": BATCH,
        "method": METHOD,
        "operators": found["ops"],
        "outside": found["outside"],
        "delegate_calls": found["delegate_calls"],
        "precisions": found["precisions"],
    }
    return facts if int8_form is None else {**facts, "int8_form": int8_form}


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, training in modes:
            child.training = training
