"""What a bench times: ONNX files of anyone, under short names, with the images that they are given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekd.backends.onnx.adapt import Door, Layout, adapt, needed
from edgekd.backends.onnx.anatomy import Anatomy, Port, dissect
from edgekd.core.digest import of_file
from edgekd.core.durable import replacing
from edgekd.core.errors import DataError, ModelError, UsageError, close_names
from edgekd.core.measurement import Subject
from edgekd.core.preprocess import Preprocess
from edgekd.data.decode import SUFFIXES, decode_file, resize
from edgekd.data.evaluation import IMAGES

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


def name_models(paths: Sequence[Path]) -> dict[str, Path]:
    """A short name for each file: its stem, else its path, numbered where a file is given twice.

    Raises `UsageError` for fewer than two files and `ModelError` for what is no file.
    """
    if len(paths) < 2:
        raise UsageError("a comparison needs at least two ONNX files", fix="edgekd bench a.onnx b.onnx")
    for path in paths:
        if not path.is_file():
            raise ModelError("there is no such file", where=str(path))
    stems = Counter(path.stem for path in dict.fromkeys(paths))
    wanted = [path.stem if stems[path.stem] == 1 else str(path) for path in paths]
    named: dict[str, Path] = {}
    for name, path in zip(wanted, paths, strict=True):
        number = 2
        unique = name
        while unique in named:
            unique, number = f"{name}#{number}", number + 1
        named[unique] = path
    return named


def find_baseline(wanted: str | None, named: dict[str, Path]) -> str:
    """The name of the model that the others are compared with: the first, or the one that is wanted."""
    if wanted is None:
        return next(iter(named))
    found = [name for name, path in named.items() if wanted in (name, str(path), path.name)]
    if len(found) == 1:
        return found[0]
    what = "is several of the models" if found else "is not among the models"
    raise UsageError(f"`{wanted}` {what}{close_names(wanted, named)}", where="--baseline", choices=named)


def prepare(name: str, path: Path, given: Path | None, folder: Path) -> Model:
    """Read what the file takes, and make ready in `folder` what it needs to be timed.

    given: None, a folder with images.npy (as an evaluation set), or a folder of image files.
    Raises `ModelError` for a file that is no graph or takes no single input, `DataError` for images.
    """
    anatomy = dissect(path)
    if len(anatomy.inputs) != 1 or not anatomy.outputs:
        inputs = ", ".join(map(str, anatomy.inputs)) or "none"
        raise ModelError(f"needs exactly one input and an output; its inputs: {inputs}", where=str(path))
    subject = Subject(name=name, digest=of_file(path), precision=anatomy.precision)
    door = _door(anatomy, anatomy.inputs[0], with_images=given is not None)
    runs, changes = path, tuple[str, ...]()
    if door is not None and needed(anatomy, door):
        runs = folder / f"{subject.digest[:24]}.onnx"
        changes = adapt(path, anatomy, door, runs)
    if given is None:
        return Model(subject, runs, changes, None, None)
    if door is None:
        raise DataError(f"`{name}` takes no images: its input is {anatomy.inputs[0]}", where=str(given))
    images = given / IMAGES if (given / IMAGES).is_file() else _decoded(given, door, folder)
    return Model(subject, runs, changes, images, _preprocess(images, door))


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


def _preprocess(images: Path, door: Door) -> Preprocess:
    try:
        shape = np.load(images, mmap_mode="r", allow_pickle=False).shape
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot read the images: {error}", where=str(images)) from error
    if shape[1:] != (*door.size, door.channels) or door.channels not in (1, 3):
        raise DataError(
            f"the model takes [H, W, C] = {[*door.size, door.channels]}, the images are {list(shape[1:])}",
            where=str(images),
            fix="--images FOLDER with image files, which are resized to each model's input",
        )
    return Preprocess(size=door.size, mean=(_MEAN,) * door.channels, std=(_STD,) * door.channels)


def _decoded(given: Path, door: Door, folder: Path) -> Path:
    """Image files below a folder, the first by name, resized to the model's input and kept as one array."""
    made = folder / f"images-{door.size[0]}x{door.size[1]}x{door.channels}.npy"
    files = sorted(path for path in given.rglob("*") if path.suffix.lower() in SUFFIXES)[:_MOST_IMAGES]
    if not files:
        raise DataError(f"holds neither {IMAGES} nor image files", where=str(given))
    if door.channels not in (1, 3):
        raise DataError(
            f"the model takes {door.channels} channels; image files have 1 or 3", where=str(given)
        )
    channels = door.channels
    pixels = np.stack([resize(decode_file(file, channels), door.size, channels) for file in files])
    with replacing(made) as temporary, temporary.open("wb") as stream:
        np.save(stream, pixels, allow_pickle=False)
    return made
