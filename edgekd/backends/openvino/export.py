"""Writes a network as OpenVINO IR (.xml and .bin): same network, same bytes, in any folder and process."""

from __future__ import annotations

import re
import tempfile
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgekd.backends.onnx.export import BATCH, INPUT, OUTPUT, modules_of
from edgekd.backends.onnx.export import write as write_onnx
from edgekd.backends.openvino.openvino_file import DIGEST, PRECISION
from edgekd.backends.openvino.silent import openvino as ov
from edgekd.backends.source import Source
from edgekd.core.digest import of_bytes
from edgekd.core.durable import replacing, sync
from edgekd.core.errors import ModelError

RT_INFO = "edgekd"
"""Our part of the model's runtime information, below which is each entry of the metadata."""
_NO_RULE = re.compile(r"No conversion rule found for operations: ([^:]*?)(?: -- |$)")
_OPERATOR = re.compile(r"(\w+)-\d+")
_INTEGERS = ("i8", "u8")
_WEIGHED = ("Convolution", "GroupConvolution", "MatMul", "ConvolutionBackpropData")


@dataclass(frozen=True)
class Written:
    """The two files of one model."""

    xml: bytes
    weights: bytes


def export(source: Source, path: Path) -> dict[str, Any]:
    """Write the source's module to `path` (.xml) and its weights beside it (.bin); returns facts about them.

    The graph takes `input` float32 `[batch, C, H, W]` and gives `logits` float32 `[batch, classes]`; `batch`
    is dynamic. fp16: the weights are stored in half precision, what they are computed in is the device's
    choice. bf16: they are stored in float32, and the runtime computes in bfloat16. int8: the scales are those
    that the module was trained with. Raises `ModelError` when it cannot be exported, `StoreError` when it
    cannot be written.
    """
    model = _converted(source)
    integers = integer_layers(model)
    if source.precision == "int8" and not integers:
        raise ModelError(
            "int8 was asked for, and no operation of the model has int8 weights",
            where=type(source.module).__name__,
            fix="quantize it first (`edgekd.quant.prepare`), or ask for fp32 or fp16",
        )
    own = {PRECISION: "bf16"} if source.precision == "bf16" else {}
    written = serialized(model, {**source.metadata, **own}, half=source.precision == "fp16")
    write_pair(path, written)
    return {
        **source.facts(),
        "sha256": of_bytes(written.xml),
        "size_bytes": len(written.xml) + len(written.weights),
        "companions": {".bin": {"sha256": of_bytes(written.weights), "size_bytes": len(written.weights)}},
        "input": {"name": INPUT, "shape": [BATCH, *source.input_shape], "dtype": "float32"},
        "output": {"name": OUTPUT},
        "operators": dict(sorted(Counter(node.get_type_name() for node in model.get_ops()).items())),
        **({"int8_form": "trained", "int8_operators": len(integers)} if integers else {}),
    }


def integer_layers(model: Any) -> list[str]:
    """Names of the operations whose weights are int8 codes."""
    return [
        node.get_friendly_name()
        for node in model.get_ordered_ops()
        if (weights := _weights(node)) is not None and weights.get_element_type().get_type_name() in _INTEGERS
    ]


def _weights(node: Any) -> Any | None:
    """The constant that an operation's weights are made from."""
    return _constant(node.input_value(1).get_node()) if node.get_type_name() in _WEIGHED else None


def _constant(source: Any) -> Any | None:
    """What is behind Convert, Subtract, Multiply, Reshape, where that is a constant."""
    while source.get_input_size():
        source = source.input_value(0).get_node()
    return source if source.get_type_name() == "Constant" else None


# --- conversion ---------------------------------------------------------------------------------------------


def _converted(source: Source) -> Any:
    """An `openvino.Model` by way of our ONNX exporter."""
    with tempfile.TemporaryDirectory(prefix="edgekd-openvino-") as folder:
        graph = Path(folder, "model.onnx")  # its name, without its folder, becomes part of the model
        _write_onnx(source, graph)
        try:
            return converted(graph, type(source.module).__name__)
        except ModelError as error:
            raise _named(error, source) from error


def _named(error: ModelError, source: Source) -> ModelError:
    """The error with the module that made what OpenVINO does not have, where that is the reason."""
    listed = _NO_RULE.search(error.what)
    if listed is None:
        return error
    operators = _OPERATOR.findall(listed[1])
    modules = modules_of(source, operators)
    told = [f"`{one}`{f' at `{modules[one]}`' if modules.get(one) else ''}" for one in operators]
    return ModelError(f"OpenVINO has no {', '.join(told)}", where=error.where, fix=error.fix)


def _write_onnx(source: Source, path: Path) -> None:
    """Half precision and metadata are for OpenVINO to store, not for the graph that it reads."""
    precision = source.precision if source.precision == "int8" else "fp32"
    write_onnx(replace(source, precision=precision, metadata={}), path)


def converted(graph: Path, where: str) -> Any:
    """The ONNX file as an `openvino.Model` whose names are the same every time; raises `ModelError`."""
    try:
        model = ov.convert_model(graph)
    except Exception as error:  # OpenVINO's own exceptions share no public base
        raise ModelError(
            f"OpenVINO cannot convert the graph: {reason(error)}",
            where=where,
            fix="replace that operation, or use the onnx backend for this network",
        ) from error
    _name(model)
    return model


def _name(model: Any) -> None:
    """Call layers as their module, and the rest by kind and place.

    OpenVINO's own names hold a counter of the whole process, and are handed on from one operation to another.
    """
    taken: set[str] = set()
    for number, node in enumerate(model.get_ordered_ops()):
        name = _own_name(node) or f"{node.get_type_name()}/{number}"
        node.set_friendly_name(name if name not in taken else f"{name}/{number}")
        taken.add(node.get_friendly_name())


def _own_name(node: Any) -> str | None:
    """The name of an end, of a stored tensor, or of the module that the operation's weights belong to."""
    if node.get_type_name() in ("Parameter", "Result"):
        return str(node.get_friendly_name())
    if node.get_type_name() == "Constant":
        return min(node.output(0).get_names(), default=None)
    if node.get_type_name() == "Add" and _constant(node.input_value(1).get_node()) is not None:
        layer = _layer(node.input_value(0).get_node())
        return f"{layer}/bias" if layer else None  # what a kernel is called that does both
    return _layer(node)


def _layer(node: Any) -> str | None:
    weights = _weights(node)
    stored = min(weights.output(0).get_names(), default=None) if weights is not None else None
    return stored.removesuffix(".codes").removesuffix(".weight") if stored else None


def reason(error: Exception) -> str:
    """What OpenVINO says, without the lines of its own source."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith(("Exception from", "Check '", "["))]
    text = " ".join(said or lines)
    unknown = _NO_RULE.search(text)
    return unknown[0] if unknown else text[:500]  # what else failed, failed because of these


# --- the files ----------------------------------------------------------------------------------------------


def serialized(model: Any, metadata: Mapping[str, str], *, half: bool) -> Written:
    """The model's two files; the .xml has the metadata and the digest of the .bin."""
    pending = uuid.uuid4().hex
    for key, value in sorted({**metadata, DIGEST: pending}.items()):
        model.set_rt_info(value, [RT_INFO, key])
    with tempfile.TemporaryDirectory(prefix="edgekd-openvino-") as folder:
        ov.save_model(model, Path(folder, "model.xml"), compress_to_fp16=half)
        xml, weights = (Path(folder, f"model{suffix}").read_bytes() for suffix in (".xml", ".bin"))
    digest = of_bytes(weights)
    model.set_rt_info(digest, [RT_INFO, DIGEST])
    return Written(xml.replace(pending.encode(), digest.encode()), weights)


def write_pair(path: Path, written: Written) -> None:
    """Both files, so that whoever finds the .xml finds the .bin of the same export beside it.

    Two names cannot change at once. So an .xml that is there goes away first, the .bin takes its name, the
    .xml last; a crash in between leaves no .xml. Who had opened the old .xml before sees from the digest in
    it that the .bin is another. Raises `StoreError`.
    """
    with replacing(path) as xml, replacing(path.with_suffix(".bin")) as weights:
        for file, content in ((weights, written.weights), (xml, written.xml)):
            file.write_bytes(content)
            sync(file)
        _withdraw(path)


def _withdraw(path: Path) -> None:
    path.unlink(missing_ok=True)
    sync(path.parent)
