"""Writes a network as the ONNX file that TensorRT takes; its engine is built on the device."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import torch

from edgekd.backends.onnx.export import Exportable, Half
from edgekd.backends.onnx.export import export as export_onnx
from edgekd.backends.source import Source
from edgekd.backends.tensorrt.ahead import built_ahead
from edgekd.backends.tensorrt.finding import ACCEPTED, Finding
from edgekd.backends.tensorrt.graph_scope import scopes_of
from edgekd.backends.tensorrt.options import TensorrtOptions
from edgekd.backends.tensorrt.placement_rules import MATRIX, is_quantized
from edgekd.backends.tensorrt.qdq_lint import as_facts, lint, rejected
from edgekd.core.durable import replacing
from edgekd.core.errors import ModelError

NO_GPU = "not executed: no GPU"
"""Of what only a GPU does: building with TensorRT itself, running, timing."""
_SHOWN = 5


def export(source: Source, path: Path) -> dict[str, Any]:
    """Write the source's module to `path`; returns facts about the graph, and which checks it went through.

    The graph is that of the `onnx` backend (`input` float32 `[batch, C, H, W]`, `logits`, dynamic batch).
    fp16: converted to half precision between two casts. int8: with the quantizers it was trained with, which
    must stand as profile `tensorrt` says. Raises `ModelError` for what TensorRT refuses or cannot be
    exported, `StoreError` when it cannot be written; `path` then stays as it was.
    With the option `float_layers: fp16` everything around the integers is of half precision, too.
    """
    options = TensorrtOptions.model_validate(source.options)
    with replacing(path) as temporary:
        facts = export_onnx(_typed(source, options), temporary, one_file_bytes=None)
        model = onnx.load(str(temporary))
        findings = lint(model)
        refuse(model, rejected(findings), type(source.module).__name__)
        quantized = _int8_operators(model)
        if source.precision == "int8" and quantized == 0:
            raise ModelError(
                "int8 was asked for, and no operation of the model has int8 inputs and weights",
                where=type(source.module).__name__,
                fix="quantize it first (`edgekd.quant.prepare`, profile `tensorrt`), or ask for fp32 or fp16",
            )
        ahead = built_ahead(temporary)
    return {
        **facts,
        "precision": source.precision,
        **(
            {"int8_form": "trained", "int8_operators": quantized, "float_layers": options.float_layers}
            if quantized
            else {}
        ),
        "findings": as_facts([finding for finding in findings if finding.severity == ACCEPTED]),
        "checks": {"linter": "nothing rejected", "tensorrt_rtx": ahead, "tensorrt": NO_GPU},
    }


def _typed(source: Source, options: TensorrtOptions) -> Source:
    """Without the options, which are none of ONNX's."""
    source = replace(source, options={})
    if options.float_layers == "fp32" or not isinstance(source.module, Exportable):
        return source
    return replace(source, module=Half(source.module.exportable(torch.float16)))


def refuse(model: onnx.ModelProto, findings: list[Finding], where: str) -> None:
    """Raise `ModelError` with what is rejected: which node, of which module, why, and the fix."""
    if not findings:
        return
    told = [f"{_place(model, one)}{one.what} ({one.why})" for one in findings[:_SHOWN]]
    more = f"; and {len(findings) - _SHOWN} more" if len(findings) > _SHOWN else ""
    fixes = ["train int8 with the profile `tensorrt`", *dict.fromkeys(one.fix for one in findings)]
    raise ModelError(
        f"TensorRT refuses the graph: {'; '.join(told)}{more}", where=where, fix="; ".join(fixes[:_SHOWN])
    )


def _place(model: onnx.ModelProto, finding: Finding) -> str:
    module = module_of(model, finding.node)
    return f"{finding.node}{f' at `{module}`' if module else ''}: " if finding.node else ""


def module_of(model: onnx.ModelProto, node: str) -> str | None:
    """The nearest module at or before a node, by the name of a stored weight or bias."""
    makers = {output: one for one in model.graph.node for output in one.output}
    stored = {tensor.name for tensor in model.graph.initializer}
    names = [name for one in model.graph.node if one.name == node for name in one.input]
    for name in names:  # grows while it is gone through
        found = re.match(r"(.+?)\.(weight|bias)(\.|$)", name) if name in stored else None
        if found:
            return found[1]
        names += [above for above in makers[name].input if above not in names] if name in makers else []
    return None


def _int8_operators(model: onnx.ModelProto) -> int:
    """Operations whose input and weights are both dequantized codes."""
    return sum(
        node.op_type in MATRIX and all(is_quantized(name, scope) for name in node.input[:2])
        for scope in scopes_of(model)
        for node in scope.nodes
    )
