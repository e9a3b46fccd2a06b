"""Puts a foreign ONNX graph behind the one door that our runtime knows, and says what that took.

The door: one file, one float input `[batch, C, H, W]` of fixed size, the scores `[batch, classes]` as the
first output. A graph that has it is left byte for byte; its operators are never touched.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edgekd.backends.onnx.adopt import BATCH
from edgekd.backends.onnx.anatomy import Anatomy, Port, read
from edgekd.backends.onnx.external_data import ONE_FILE_BYTES, gather
from edgekd.core.durable import replacing
from edgekd.core.errors import ModelError

Layout = Literal["nchw", "nhwc"]
DOOR = "edgekd_input"
_GATHERED = "its external data are in one file with it, or in one beside it"
CAST_FROM = ("uint8", "float64")
"""Input types that the graph is given from float32; float32 and float16 it takes as they are."""


@dataclass(frozen=True)
class Door:
    """How the graph's own input and output are to be used: `size` is (height, width)."""

    input: Port
    layout: Layout
    size: tuple[int, int]
    channels: int
    output: Port


def timed_extras(door: Door) -> frozenset[str]:
    """Operators of ours that a graph behind this door is timed with."""
    extras = {"Cast": _is_cast(door), "Transpose": door.layout == "nhwc"}
    return frozenset(name for name, is_there in extras.items() if is_there)


def needed(anatomy: Anatomy, door: Door) -> tuple[str, ...]:
    """What must be changed for the graph to be measured, in words; nothing if it fits as it is."""
    shape = door.input.shape or ()
    found = []
    if anatomy.external:
        found.append(_GATHERED)
    if not _fits(shape, door):
        found.append(f"its input {[d or '?' for d in shape]} has the fixed size it is given")
    if _is_cast(door):
        found.append(f"a Cast to {door.input.dtype} stands before it, and is part of its times")
    if door.layout == "nhwc":
        found.append("a Transpose to channels-last stands before it, and is part of its times")
    if anatomy.outputs[0] != door.output:
        found.append(f"`{door.output.name}` is its first output")
    if len(door.output.shape or ()) > 2:
        found.append("a Flatten stands behind its output")
    return tuple(found)


def adapt(
    source: Path, anatomy: Anatomy, door: Door, path: Path, *, one_file_bytes: int = ONE_FILE_BYTES
) -> tuple[str, ...]:
    """Write the graph in `source` to `path`, changed as little as `needed` says, which is returned.

    Of a graph with external data, weights of more than `one_file_bytes` are written beside it. Raises
    `ModelError` for a batch fixed to several images and for external data that are not as they should be.
    """
    _check_batch(source, door.input)
    changes = needed(anatomy, door)
    if not changes:
        with replacing(path) as temporary:
            shutil.copyfile(source, temporary)
        return ()
    model = read(source)
    _set_input(model, door)
    _set_output(model, door)
    del model.graph.value_info[:]  # inner shapes under the old names; runtimes infer them
    gather(model, source, path, one_file_bytes=one_file_bytes)
    return changes


def gathered(source: Path, path: Path) -> tuple[str, ...]:
    """Write the graph in `source` to `path` as it is, its weights with it or in the one file beside it."""
    gather(read(source), source, path)
    return (_GATHERED,)


def _is_cast(door: Door) -> bool:
    """A half-precision input is fed as it is, unless something must stand before it anyway."""
    return door.input.dtype in CAST_FROM or (door.layout == "nhwc" and door.input.dtype != "float32")


def _fits(shape: tuple[Any, ...], door: Door) -> bool:
    wanted = (door.channels, *door.size) if door.layout == "nchw" else (*door.size, door.channels)
    return shape[:1] in ((1,), (BATCH,)) and shape[1:] == wanted


def _check_batch(source: Path, port: Port) -> None:
    batch = (port.shape or ("",))[0]
    if isinstance(batch, int) and batch > 1:
        raise ModelError(
            f"the graph's batch is fixed to {batch} images; it is measured one image at a time",
            where=str(source),
            fix="export it with a dynamic batch, or with a batch of 1",
        )


def _set_input(model: Any, door: Door) -> None:
    from onnx import TensorProto, helper

    graph = model.graph
    own = next(value for value in graph.input if value.name == door.input.name)
    batch = 1 if (door.input.shape or ("",))[0] == 1 else BATCH
    if door.layout == "nchw" and not _is_cast(door):
        _set_dims(own, (batch, door.channels, *door.size))
        return
    graph.input.remove(own)
    made = helper.make_tensor_value_info(DOOR, TensorProto.FLOAT, [batch, door.channels, *door.size])
    graph.input.insert(0, made)
    nodes, value = [], DOOR
    if _is_cast(door):
        kind = own.type.tensor_type.elem_type
        after = f"{DOOR}_cast" if door.layout == "nhwc" else door.input.name
        nodes.append(helper.make_node("Cast", [value], [after], f"{DOOR}_cast", to=kind))
        value = after
    if door.layout == "nhwc":
        name = f"{DOOR}_transpose"
        nodes.append(helper.make_node("Transpose", [value], [door.input.name], name, perm=[0, 2, 3, 1]))
    for node in reversed(nodes):
        graph.node.insert(0, node)


def _set_output(model: Any, door: Door) -> None:
    from onnx import helper

    outputs = model.graph.output
    own = next(value for value in outputs if value.name == door.output.name)
    rest = [value for value in outputs if value.name != door.output.name]
    if len(door.output.shape or ()) > 2:
        name = f"{own.name}_flat"
        model.graph.node.append(helper.make_node("Flatten", [own.name], [name], name, axis=1))
        classes = next((d for d in (door.output.shape or ())[1:] if d != 1), 1)
        own = helper.make_tensor_value_info(name, own.type.tensor_type.elem_type, [BATCH, classes])
    else:
        dimension = own.type.tensor_type.shape.dim[0]
        if not (dimension.HasField("dim_value") and dimension.dim_value > 0):
            dimension.dim_param = BATCH
    del outputs[:]
    outputs.extend([own, *rest])


def _set_dims(value: Any, dims: tuple[int | str, ...]) -> None:
    shape = value.type.tensor_type.shape
    del shape.dim[:]
    for size in dims:
        dimension = shape.dim.add()
        if isinstance(size, int):
            dimension.dim_value = size
        else:
            dimension.dim_param = size
