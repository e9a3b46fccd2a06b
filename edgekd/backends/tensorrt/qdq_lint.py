"""Says what TensorRT will refuse or misread in an ONNX graph, without TensorRT: onnx and NumPy only.

Every rule was held against the parser and the builder of TensorRT-RTX 1.7.1 (tests/backends/tensorrt); those
of 10.3 and 11.x were not executed. `rejected`: the parser or, where the finding says so, the builder refuses.
What is `rejected` must not reach a parser: for a scale that is no constant the one of TensorRT-RTX 1.7.1 ends
the process (segmentation fault) instead of refusing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from edgekd.backends.tensorrt.finding import ACCEPTED, REJECTED, Finding
from edgekd.backends.tensorrt.graph_scope import (
    DQ,
    Q,
    Scope,
    codes_of,
    input_of,
    name_of,
    number_of,
    scopes_of,
    type_name,
)
from edgekd.backends.tensorrt.placement_rules import (
    MATRIX,
    before_activation,
    half_quantized,
    per_channel,
    quantized_bias,
    skip,
)
from edgekd.backends.tensorrt.unsupported import UNSUPPORTED

NEWEST_OPSET_OF_10_3 = 20
"""Documented by NVIDIA for TensorRT 10.3 (JetPack 6); not executed."""

_SAME_TYPE = MATRIX | {"Add", "Sub", "Mul", "Div", "Concat", "Max", "Min"}
_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})
_CODES = frozenset({TensorProto.INT8, TensorProto.FLOAT8E4M3FN, TensorProto.INT4, TensorProto.FLOAT4E2M1})
_TYPES = (
    _FLOATS
    | _CODES
    | {
        TensorProto.DOUBLE,
        TensorProto.UINT8,
        TensorProto.INT32,
        TensorProto.INT64,
        TensorProto.BOOL,
    }
)
_INTEGER = frozenset({"ConvInteger", "DynamicQuantizeLinear", "MatMulInteger"})


def lint(model: onnx.ModelProto | str | Path) -> list[Finding]:
    """Everything found in a model, what is `rejected` first.

    Raises whatever `onnx.load` raises for a file that is no ONNX model.
    """
    proto = model if isinstance(model, onnx.ModelProto) else onnx.load(str(model))
    found = [finding for rule in _FILE_RULES for finding in rule(proto)]
    for scope in scopes_of(proto):
        found.extend(finding for rule in _RULES for node in scope.nodes for finding in rule(node, scope))
    return sorted(dict.fromkeys(found), key=lambda finding: finding.severity != REJECTED)


def rejected(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity == REJECTED]


# ---- Rules of the file ---------------------------------------------------------------------------


def _old_or_new_opset(model: onnx.ModelProto) -> Iterator[Finding]:
    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)
    if opset > NEWEST_OPSET_OF_10_3:
        yield Finding(
            ACCEPTED,
            "opset",
            "",
            f"opset {opset}",
            f"TensorRT 10.3 documents opsets up to {NEWEST_OPSET_OF_10_3}; TensorRT-RTX 1.7.1 took 26",
            f"export with opset {NEWEST_OPSET_OF_10_3} or older for JetPack 6",
        )


def _unknown_types(model: onnx.ModelProto) -> Iterator[Finding]:
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    kinds |= {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    for name, kind in kinds.items():
        if kind not in _TYPES:
            yield Finding(
                REJECTED,
                "type",
                name,
                f"a tensor of type {type_name(kind)}",
                "TensorRT has no such type, and refuses the file for it",
                "quantize to int8 (`activation_type=QInt8, weight_type=QInt8`)",
            )


# ---- Rules of a node -----------------------------------------------------------------------------


def _no_importer(node: Any, scope: Scope) -> Iterator[Finding]:
    op, domain = node.op_type, node.domain
    is_known = op not in UNSUPPORTED and (onnx.defs.has(op) or domain in ("", "ai.onnx"))
    if (domain, op) in scope.functions or (is_known and domain != "trt.plugins"):
        if domain not in ("", "ai.onnx") and (domain, op) not in scope.functions:
            yield Finding(
                ACCEPTED,
                "domain",
                name_of(node),
                f"{op} of the domain {domain}",
                "the parser goes by the name alone and reads it as ONNX's own operator",
                f"write ONNX's own {op}",
            )
        return
    if op.startswith("QLinear") or op in _INTEGER or op in ("QGemm", "QAttention"):
        why, fix = (
            "TensorRT reads int8 from Q/DQ pairs only",
            "quantize in the Q/DQ format (`QuantFormat.QDQ`)",
        )
    elif domain in ("", "ai.onnx"):
        why, fix = "TensorRT's parser has no importer for it", "replace the operator in the network"
    else:
        why = "neither ONNX nor TensorRT's parser knows it; only a plugin of that name would"
        fix = "replace the operator, or register the plugin and build without this check"
    yield Finding(REJECTED, "operator", name_of(node), f"{domain and domain + '.'}{op}", why, fix)


def _scale(node: Any, scope: Scope) -> Iterator[Finding]:
    if node.op_type not in (Q, DQ):
        return
    scale = scope.array(input_of(node, 1))
    if scale is None:
        why = "steps must be constants; the parser of TensorRT-RTX 1.7.1 crashes"
        yield Finding(
            REJECTED, "scale", name_of(node), "the scale is not a constant", why, "quantize statically"
        )
        return
    values = scale.astype(np.float64)
    if not (values > 0).all():
        what = f"a scale of {float(values[~(values > 0)].flat[0])}"
        yield Finding(REJECTED, "scale", name_of(node), what, "scales must be positive", "calibrate again")
    elif not np.isfinite(values).all():
        why = "every value becomes 0 or not a number"
        yield Finding(ACCEPTED, "scale", name_of(node), "an infinite scale", why, "calibrate again")
    yield from _scale_count(node, values, scope)
    yield from _scale_of_pair(node, values, scope)


def _scale_count(node: Any, scale: npt.NDArray[Any], scope: Scope) -> Iterator[Finding]:
    """A vector of scales must have one for each index of its axis (before blocks, which are matrices)."""
    shape = scope.shapes.get(node.input[0], ())
    if scale.size <= 1 or scale.ndim != 1 or not shape or number_of(node, "block_size", 0):
        return
    axis = number_of(node, "axis", 1) if scope.opset >= 13 else 0
    size = shape[axis] if -len(shape) <= axis < len(shape) else 0
    if size not in (-1, scale.size):
        what = f"{scale.size} scales along an axis of {size}"
        yield Finding(
            REJECTED, "scale-count", name_of(node), what, "one scale per index is needed", "set `axis`"
        )


def _scale_of_pair(node: Any, scale: npt.NDArray[Any], scope: Scope) -> Iterator[Finding]:
    partner = scope.maker(node.input[0], Q) if node.op_type == DQ else None
    other = None if partner is None else scope.array(input_of(partner, 1))
    if other is not None and (
        other.shape != scale.shape or not np.array_equal(other.astype(np.float64), scale)
    ):
        yield Finding(
            ACCEPTED,
            "pair",
            name_of(node),
            "another scale than that of the QuantizeLinear before it",
            "the tensor is multiplied by their ratio",
            "give both the same scale",
        )


def _zero_point(node: Any, scope: Scope) -> Iterator[Finding]:
    if node.op_type not in (Q, DQ) or not input_of(node, 2):
        return
    zero = scope.array(node.input[2])
    if zero is None:
        why = "the parser takes it, the builder refuses it"
        yield Finding(
            REJECTED,
            "zero-point",
            name_of(node),
            "the zero point is not a constant",
            why,
            "quantize statically",
        )
    elif scope.constants[node.input[2]].data_type != TensorProto.INT32 and np.any(
        zero.astype(np.float64) != 0
    ):
        yield Finding(
            REJECTED,
            "zero-point",
            name_of(node),
            f"a zero point of {float(zero.astype(np.float64)[zero.astype(np.float64) != 0].flat[0]):g}",
            "TensorRT's int8 is symmetric",
            "quantize symmetrically (`ActivationSymmetric=True, WeightSymmetric=True`)",
        )


def _code_type(node: Any, scope: Scope) -> Iterator[Finding]:
    if node.op_type not in (Q, DQ):
        return
    kind = codes_of(node, scope)
    if kind == TensorProto.UINT8:
        yield from _unsigned(node, scope)
    elif node.op_type == DQ and kind == TensorProto.INT32:
        yield Finding(
            REJECTED,
            "bias",
            name_of(node),
            "a DequantizeLinear of int32 (a bias)",
            "TensorRT dequantizes no int32",
            "keep biases in float (`QuantizeBias=False`)",
        )
    elif kind not in _CODES:
        what = f"codes of type {type_name(kind)}"
        why = "TensorRT has int8, int4, float8 (E4M3) and float4 only"
        yield Finding(REJECTED, "code-type", name_of(node), what, why, "quantize to int8")


def _unsigned(node: Any, scope: Scope) -> Iterator[Finding]:
    """uint8 is read as int8 where the graph makes it, and refused where it is given."""
    maker = scope.makers.get(node.input[0])
    is_given = maker is None or maker.op_type == "Cast" or scope.array(node.input[0]) is not None
    if node.op_type == Q:
        yield Finding(
            ACCEPTED,
            "unsigned",
            name_of(node),
            "codes of type uint8",
            "read as int8, so that whatever lies above code 127 is cut off (inferred, not executed)",
            "quantize activations to int8 (`activation_type=QInt8`)",
        )
    elif is_given:
        what, why = "a DequantizeLinear of given uint8 codes", "the parser takes no such input"
        yield Finding(
            REJECTED, "unsigned", name_of(node), what, why, "quantize to int8 (`weight_type=QInt8`)"
        )


def _codes_in_use(node: Any, scope: Scope) -> Iterator[Finding]:
    """A constant of codes may only be dequantized; ONNX Runtime gives one to Pad as its value."""
    if node.op_type in (Q, DQ):
        return
    for name in node.input:
        if node.op_type == "Identity" and _is_zero_point(node.output[0], scope):
            continue
        if name in scope.constants and scope.types.get(name) in _CODES:
            yield Finding(
                REJECTED,
                "code-constant",
                name_of(node),
                f"{node.op_type} reads `{name}`, a constant of {type_name(scope.types[name])}",
                "the parser takes it, the builder refuses codes that no DequantizeLinear reads",
                f"quantize behind the {node.op_type}, or keep it in float (leave it out of "
                "`op_types_to_quantize`, or `AddQDQPairToWeight=True`)",
            )


def _is_zero_point(name: str, scope: Scope) -> bool:
    """Whether a value is read as a zero point, and as nothing else."""
    readers = scope.readers.get(name, [])
    return bool(readers) and all(node.op_type in (Q, DQ) and name not in node.input[:2] for node in readers)


def _int8_number(node: Any, scope: Scope) -> Iterator[Finding]:
    """A single number as codes: what ONNX Runtime makes of the value of a Pad or the bounds of a Clip."""
    codes = scope.array(node.input[0]) if node.op_type == DQ else None
    if codes is not None and codes.ndim == 0:
        yield Finding(
            REJECTED,
            "number",
            name_of(node),
            "a DequantizeLinear of a single number without dimensions",
            "the parser takes it, the builder refuses it",
            "keep it in float, or quantize it in the graph (`AddQDQPairToWeight=True`)",
        )


def _mixed_types(node: Any, scope: Scope) -> Iterator[Finding]:
    """Networks are strongly typed: nothing is cast for an operation."""
    if node.op_type not in _SAME_TYPE:
        return
    kinds = {scope.types[name] for name in node.input if scope.types.get(name) in _FLOATS}
    kinds |= {kind for name in node.input if (kind := _type_behind(name, scope)) is not None}
    if len(kinds) > 1:
        what = f"inputs of types {', '.join(sorted(map(type_name, kinds)))}"
        why = "a strongly typed network casts nothing by itself"
        yield Finding(
            REJECTED, "mixed-types", name_of(node), what, why, "scales, weights and biases of one type"
        )


def _type_behind(name: str, scope: Scope) -> int | None:
    """What DequantizeLinear gives: the type of its scale."""
    node = scope.maker(name, DQ)
    kind = scope.types.get(input_of(node, 1)) if node is not None else None
    return kind if kind in _FLOATS else None


_FILE_RULES: tuple[Callable[[onnx.ModelProto], Iterator[Finding]], ...] = (_old_or_new_opset, _unknown_types)
_RULES: tuple[Callable[[Any, Scope], Iterator[Finding]], ...] = (
    _no_importer,
    _scale,
    _zero_point,
    _code_type,
    _codes_in_use,
    _int8_number,
    _mixed_types,
    per_channel,
    half_quantized,
    quantized_bias,
    before_activation,
    skip,
)


def as_facts(findings: list[Finding]) -> list[Mapping[str, str]]:
    """Plain JSON, one object a finding."""
    return [dict(vars(finding)) for finding in findings]
