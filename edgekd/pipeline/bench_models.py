"""What a bench times: a graph of any backend, made ready to run, with the images that it is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekd.backends.catalogue import BACKENDS
from edgekd.backends.onnx.adapt import Door, Layout, adapt, gathered, needed
from edgekd.backends.onnx.anatomy import Anatomy, Port, dissect
from edgekd.core.digest import of_file
from edgekd.core.durable import replacing
from edgekd.core.errors import DataError, ModelError
from edgekd.core.measurement import Subject
from edgekd.core.preprocess import Preprocess
from edgekd.data.decode import SUFFIXES, decode_file, resize
from edgekd.data.evaluation import IMAGES
from edgekd.measure.device import Device
from edgekd.measure.probes import Graph

_MOST_IMAGES = 1024
_MEAN, _STD = 0.45, 0.25
"""Of natural images in [0, 1], roughly, so that inputs look like those that graphs were trained on."""


@dataclass(frozen=True)
class Model:
    """One file to time. `path` is what runs: the file itself, or a copy with `changes`."""

    subject: Subject
    path: Path
    changes: tuple[str, ...]
    images: Path | None
    """uint8 .npy `[N, H, W, C]`; None: standard normal inputs."""
    preprocess: Preprocess | None
    problems: tuple[str, ...] = ()
    """What ran otherwise than the runtime was asked for."""


_ONNX = ".onnx"
_INTEGERS = ("i8", "u8", "int8", "uint8")
_HALF = ("f16", "fp16")


def made_ready(name: str, graph: Graph, given: Path | None, folder: Path, device: Device) -> Model:
    """An ONNX file is read here and adapted where that is needed; others are opened on the device.

    Raises `ModelError`, `DataError`, `TargetError`.
    """
    if BACKENDS.load(graph.backend).suffix == _ONNX:
        return prepare(name, graph.path, given, folder, backend=graph.backend)
    about = device.call("about", [device.artifact(name, graph.path, backend=graph.backend)])["result"]
    images, preprocess = _images_for(name, about["input_shape"], given, folder)
    subject = Subject(
        name=name,
        digest=of_file(graph.path),
        backend=graph.backend,
        precision=_precision(about["profile"].get("precisions", {})),
    )
    unexpected = about["profile"]["unexpected"]
    problems = (f"fall-back: {len(unexpected)} kernels of {name}, {unexpected[0]}",) if unexpected else ()
    return Model(subject, graph.path, (), images, preprocess, problems)


def _precision(kernels: Mapping[str, int]) -> str:
    """The least one that kernels computed in; float32 where the runtime does not tell."""
    if any(kernels.get(kind) for kind in _INTEGERS):
        return "int8"
    return "fp16" if any(kernels.get(kind) for kind in _HALF) else "fp32"


def _images_for(
    name: str, shape: list[int], given: Path | None, folder: Path
) -> tuple[Path | None, Preprocess | None]:
    """Images for an input `[batch, C, H, W]`."""
    if given is None:
        return None, None
    if len(shape) != 4:
        raise DataError(f"`{name}` takes no images: its input is {shape}", where=str(given))
    _, channels, height, width = shape
    return _sized(given, (height, width), channels, folder)


def prepare(name: str, path: Path, given: Path | None, folder: Path, *, backend: str = "onnx") -> Model:
    """Read what the ONNX file takes, and make ready in `folder` what it needs to be timed.

    given: None, a folder with images.npy (as an evaluation set), or a folder of image files.
    Raises `ModelError` for a file that is no graph or takes no single input, `DataError` for images.
    """
    anatomy = dissect(path)
    if len(anatomy.inputs) != 1 or not anatomy.outputs:
        inputs = ", ".join(map(str, anatomy.inputs)) or "none"
        raise ModelError(f"needs exactly one input and an output; its inputs: {inputs}", where=str(path))
    subject = Subject(name=name, digest=of_file(path), backend=backend, precision=anatomy.precision)
    door = _door(anatomy, anatomy.inputs[0], with_images=given is not None)
    runs, changes = path, tuple[str, ...]()
    if door is not None and needed(anatomy, door):
        runs = folder / f"{subject.digest[:24]}.onnx"
        changes = adapt(path, anatomy, door, runs)
    elif anatomy.external:
        runs = folder / f"{subject.digest[:24]}.onnx"
        changes = gathered(path, runs)
    if given is None:
        return Model(subject, runs, changes, None, None)
    if door is None:
        raise DataError(f"`{name}` takes no images: its input is {anatomy.inputs[0]}", where=str(given))
    return Model(subject, runs, changes, *_sized(given, door.size, door.channels, folder))


def _door(anatomy: Anatomy, port: Port, *, with_images: bool) -> Door | None:
    """How the graph is entered; None where that cannot be told from the file, so that it runs as it is.

    Random numbers have no channels, so a channels-last graph is turned only for images.
    """
    shape = port.shape or ()
    if len(shape) != 4:
        return None
    _, *inner = shape
    if not all(isinstance(size, int) for size in inner):
        return None
    first, second, third = (int(size) for size in inner)
    last = with_images and third in (1, 3) and first not in (1, 3)
    layout: Layout = "nhwc" if last else "nchw"
    size, channels = ((first, second), third) if last else ((second, third), first)
    return Door(port, layout, size, channels, anatomy.outputs[0])


def _sized(given: Path, size: tuple[int, int], channels: int, folder: Path) -> tuple[Path, Preprocess]:
    images = given / IMAGES if (given / IMAGES).is_file() else _decoded(given, size, channels, folder)
    return images, _preprocess(images, size, channels)


def _preprocess(images: Path, size: tuple[int, int], channels: int) -> Preprocess:
    try:
        shape = np.load(images, mmap_mode="r", allow_pickle=False).shape
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot read the images: {error}", where=str(images)) from error
    if shape[1:] != (*size, channels) or channels not in (1, 3):
        raise DataError(
            f"the model takes [H, W, C] = {[*size, channels]}, the images are {list(shape[1:])}",
            where=str(images),
            fix="--images FOLDER with image files, which are resized to each model's input",
        )
    return Preprocess(size=size, mean=(_MEAN,) * channels, std=(_STD,) * channels)


def _decoded(given: Path, size: tuple[int, int], channels: int, folder: Path) -> Path:
    """Image files below a folder, the first by name, resized to the model's input and kept as one array."""
    made = folder / f"images-{size[0]}x{size[1]}x{channels}.npy"
    files = sorted(path for path in given.rglob("*") if path.suffix.lower() in SUFFIXES)[:_MOST_IMAGES]
    if not files:
        raise DataError(f"holds neither {IMAGES} nor image files", where=str(given))
    if channels not in (1, 3):
        raise DataError(f"the model takes {channels} channels; image files have 1 or 3", where=str(given))
    pixels = np.stack([resize(decode_file(file, channels), size, channels) for file in files])
    with replacing(made) as temporary, temporary.open("wb") as stream:
        np.save(stream, pixels, allow_pickle=False)
    return made
