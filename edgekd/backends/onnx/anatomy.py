"""What a foreign ONNX file takes, gives and consists of, read without running anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.core.errors import ModelError

Dim = int | str
"""A fixed size, or the name of a dynamic one (which may be empty)."""

_INTEGER = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}
)
_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)


@dataclass(frozen=True)
class Port:
    """An input or an output. `dtype` is NumPy's name; `shape` is None where the file does not say."""

    name: str
    dtype: str
    shape: tuple[Dim, ...] | None

    def __str__(self) -> str:
        dims = "of unknown shape" if self.shape is None else str([d or "?" for d in self.shape])
        return f"{self.name}: {self.dtype} {dims}"


@dataclass(frozen=True)
class Anatomy:
    """One file. `operators` counts nodes by operator, those of subgraphs and functions included."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    operators: dict[str, int]
    external: tuple[str, ...]
    opset: int
    producer: str
    training: tuple[str, ...] = ()
    """Operators that were left in training mode."""

    @property
    def precision(self) -> str:
        if any(name in _INTEGER or name.startswith("QLinear") for name in self.operators):
            return "int8"
        return "fp16" if any(port.dtype == "float16" for port in self.inputs) else "fp32"

    @property
    def random_operators(self) -> tuple[str, ...]:
        """Operators that answer otherwise every time."""
        return tuple(sorted(_RANDOM & set(self.operators)))


def dissect(path: Path) -> Anatomy:
    """Raises `ModelError` for what is no whole ONNX model, or names data outside its own folder."""
    model = read(path)
    fixed = {tensor.name for tensor in model.graph.initializer}
    return Anatomy(
        inputs=tuple(_port(value) for value in model.graph.input if value.name not in fixed),
        outputs=tuple(_port(value) for value in model.graph.output),
        operators=dict(sorted(Counter(_operators(model)).items())),
        external=tuple(sorted(_locations(model))),
        opset=max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=0),
        training=tuple(sorted(set(_in_training(model)))),
        producer=f"{model.producer_name} {model.producer_version}".strip(),
    )


def read(path: Path) -> Any:
    """The protobuf, without its external data. Raises `ModelError` as `dissect` does."""
    import onnx

    from edgekd.backends.onnx.onnx_file import ArtifactError, check_file

    try:
        check_file(path)
        return onnx.load(str(path), load_external_data=False)
    except ArtifactError as error:
        raise ModelError(str(error), where=str(path)) from error
    except Exception as error:  # onnx raises whatever its parser does
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"not a readable ONNX model: {first}", where=str(path)) from error


def _in_training(model: Any) -> Iterator[str]:
    """Dropout that is told to drop, batch norm that takes the batch's own statistics."""
    true = {t.name for t in model.graph.initializer if t.data_type == 9 and _is_true(t)}
    for node in model.graph.node:
        if node.op_type == "Constant" and any(_is_true(a.t) for a in node.attribute if a.name == "value"):
            true.update(node.output)
        modes = [a.i for a in node.attribute if a.name == "training_mode"]
        if (node.op_type == "Dropout" and true & set(node.input[2:3])) or any(modes):
            yield node.op_type


def _is_true(tensor: Any) -> bool:
    """Of a boolean scalar, in either of the forms that protobuf has for it."""
    return tensor.data_type == 9 and (any(tensor.int32_data) or any(tensor.raw_data))


def _port(value: Any) -> Port:
    import onnx

    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type"):
        return Port(value.name, str(value.type.WhichOneof("value") or "unknown").removesuffix("_type"), None)
    try:
        dtype = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except (KeyError, ValueError, TypeError):
        dtype = f"ONNX type {tensor.elem_type}"
    dims = tuple(_dim(one) for one in tensor.shape.dim) if tensor.HasField("shape") else None
    return Port(value.name, dtype, dims)


def _dim(dimension: Any) -> Dim:
    if dimension.HasField("dim_value") and dimension.dim_value > 0:
        return int(dimension.dim_value)
    return str(dimension.dim_param)


def _operators(model: Any) -> Iterator[str]:
    yield from _below(model.graph.node)
    for function in model.functions:
        yield from _below(function.node)


def _below(nodes: Any) -> Iterator[str]:
    for node in nodes:
        yield node.op_type
        for attribute in node.attribute:
            for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _below(graph.node)


def _locations(model: Any) -> Iterator[str]:
    from onnx.external_data_helper import _get_all_tensors

    for tensor in _get_all_tensors(model):
        for entry in tensor.external_data:
            if entry.key == "location":
                yield entry.value
