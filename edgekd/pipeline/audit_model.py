"""Works out how a foreign model is used, from its graph and the YAML: its door, preprocessing and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, cast

from edgekd.backends.onnx.adapt import CAST_FROM, Door, Layout
from edgekd.backends.onnx.anatomy import Anatomy, Dim, Port, dissect
from edgekd.core.digest import of_file
from edgekd.core.errors import ModelError, UsageError
from edgekd.core.preprocess import Preprocess
from edgekd.data.fitting import Fitting
from edgekd.pipeline.audit_spec import AuditSpec, PreprocessSpec

_FLOATS = ("float32", "float16", "float64")
_CHANNELS = (1, 3)


@dataclass(frozen=True)
class Subject:
    """One model of an audit, resolved as far as that goes without the data's classes."""

    name: str
    path: Path
    sha256: str
    spec: AuditSpec
    anatomy: Anatomy
    door: Door
    preprocess: Preprocess
    fitting: Fitting
    num_classes: int | None
    """None where the graph leaves it open."""
    notes: tuple[str, ...]

    @cached_property
    def external(self) -> dict[str, str]:
        """The files of its weights that stand beside it, and the sha256 of each."""
        return {name: of_file(self.path.parent / name) for name in self.anatomy.external}

    @property
    def raw_pixels(self) -> bool:
        """Whether the graph takes pixels and normalizes them by itself."""
        return self.door.input.dtype == "uint8"


def resolve(name: str, path: Path, spec: AuditSpec) -> Subject:
    """Raises `UsageError` for another file than the one whose sha256 is given, `ModelError` for a graph that
    is no image classifier or that needs to be told more."""
    digest = _checked_digest(path, spec)
    anatomy = dissect(path)
    source = _input(anatomy, spec, path)
    layout, channels, layout_notes = _layout(source, spec, path)
    size = _size(source, layout, spec.preprocess, path)
    output, num_classes = _output(anatomy, spec, path)
    preprocess, notes = _preprocess(source, size, channels, spec.preprocess, path)
    return Subject(
        name=name,
        path=path,
        sha256=digest,
        spec=spec,
        anatomy=anatomy,
        door=Door(source, layout, size, channels, output),
        preprocess=preprocess,
        fitting=Fitting(
            size=size,
            channels=channels,
            fit=spec.preprocess.fit,
            resize=spec.preprocess.resize,
            crop_share=spec.preprocess.crop_share,
            bgr=spec.preprocess.channels == "bgr",
        ),
        num_classes=num_classes,
        notes=(*layout_notes, *notes),
    )


def _checked_digest(path: Path, spec: AuditSpec) -> str:
    try:
        digest = of_file(path)
    except OSError as error:
        raise ModelError(f"cannot read: {error.strerror or error}", where=str(path)) from error
    if spec.sha256 is not None and digest != spec.sha256:
        raise UsageError(
            f"the file's sha256 is {digest}, not the {spec.sha256} that was asked for",
            where=str(path),
            fix="audit the file that was meant, or give the digest of this one",
        )
    return digest


def _input(anatomy: Anatomy, spec: AuditSpec, path: Path) -> Port:
    names = [port.name for port in anatomy.inputs]
    if len(names) != 1:
        raise ModelError(
            f"takes {len(names)} inputs ({', '.join(map(str, anatomy.inputs))}), a classifier of images one",
            where=str(path),
            fix="export it with the image as its only input",
        )
    (port,) = anatomy.inputs
    if spec.input.name not in (None, port.name):
        raise ModelError(f"has no input `{spec.input.name}`", where=str(path), choices=names)
    if port.dtype not in (*_FLOATS, *CAST_FROM) or port.shape is None or len(port.shape) != 4:
        raise ModelError(
            f"takes {port}, not images: four dimensions of {', '.join((*_FLOATS, 'uint8'))}", where=str(path)
        )
    return port


def _layout(port: Port, spec: AuditSpec, path: Path) -> tuple[Layout, Literal[1, 3], tuple[str, ...]]:
    """Where the channels are and how many."""
    shape = cast("tuple[Dim, ...]", port.shape)
    fits = [name for name, at in (("nchw", 1), ("nhwc", 3)) if shape[at] in _CHANNELS]
    layout = spec.input.layout
    is_open = not fits and not (isinstance(shape[1], int) and isinstance(shape[3], int))
    if layout is None and len(fits) != 1 and not is_open:
        raise ModelError(
            f"takes {port}: it does not show whether the channels are first or last",
            where=str(path),
            fix="write `input: {layout: nchw}` or `nhwc`",
        )
    chosen = cast("Layout", layout or (fits[0] if fits else "nchw"))
    dim = shape[1 if chosen == "nchw" else 3]
    channels, notes = _channels(dim, spec.preprocess, port, chosen, path)
    if layout is None and is_open:
        notes = (*notes, "assumed: channels first (the graph leaves it open); `input: {layout: ...}` says it")
    return chosen, channels, notes


def _channels(
    dim: Dim, given: PreprocessSpec, port: Port, layout: str, path: Path
) -> tuple[Literal[1, 3], tuple[str, ...]]:
    wanted = {None: None, "gray": 1, "rgb": 3, "bgr": 3}[given.channels]
    if isinstance(dim, int) and dim not in _CHANNELS:
        raise ModelError(
            f"takes {port}: {dim} channels in the layout {layout}, not 1 or 3",
            where=str(path),
            fix="another `input: {layout: ...}`, if the channels are elsewhere",
        )
    if isinstance(dim, int) and wanted is not None and wanted != dim:
        raise ModelError(
            f"takes {dim} channels, and `channels: {given.channels}` means {wanted}", where=str(path)
        )
    lengths = {len(numbers) for numbers in (given.mean, given.std) if numbers and len(numbers) > 1}
    known = dim if isinstance(dim, int) else wanted or next(iter(lengths), None)
    if known is None:
        return 3, ("assumed: RGB (the graph leaves the channels open); `channels: gray` says otherwise",)
    return (1 if known == 1 else 3), ()


def _size(port: Port, layout: str, given: PreprocessSpec, path: Path) -> tuple[int, int]:
    shape = cast("tuple[Dim, ...]", port.shape)
    dims = shape[2:4] if layout == "nchw" else shape[1:3]
    wanted = given.height_width
    for position, dim in enumerate(dims):
        if isinstance(dim, int) and wanted is not None and wanted[position] != dim:
            raise ModelError(
                f"takes images of {list(dims)}, and `size` says {list(wanted)}",
                where=str(path),
                fix="leave `size` out",
            )
    if all(isinstance(dim, int) for dim in dims):
        return cast("tuple[int, int]", dims)
    if wanted is None:
        raise ModelError(
            f"takes images of any size ({port})",
            where=str(path),
            fix="say which one it was trained for: `preprocess: {size: [224, 224]}`",
        )
    return wanted


def _preprocess(
    port: Port, size: tuple[int, int], channels: int, given: PreprocessSpec, path: Path
) -> tuple[Preprocess, tuple[str, ...]]:
    if port.dtype == "uint8" and given.is_numbers_given:
        raise ModelError(
            "takes uint8 pixels, so it normalizes them by itself",
            where=str(path),
            fix="leave `scale`, `mean` and `std` out",
        )
    notes: tuple[str, ...] = ()
    scale = given.scale or (1.0 if port.dtype == "uint8" else 1 / 255)
    if not given.is_numbers_given and port.dtype != "uint8":
        notes = ("assumed: inputs in [0, 1], for `scale`, `mean` and `std` are not given",)
    mean, std = _per_channel(given.mean, 0.0, channels, path), _per_channel(given.std, 1.0, channels, path)
    try:
        return Preprocess(size=size, mean=mean, std=std, scale=scale, resize=given.resize), notes
    except ValueError as error:
        raise UsageError(f"the preprocessing cannot be: {error}", where=str(path)) from error


def _per_channel(
    given: tuple[float, ...] | None, default: float, channels: int, path: Path
) -> tuple[float, ...]:
    numbers = given or (default,)
    if len(numbers) == 1:
        return numbers * channels
    if len(numbers) != channels:
        raise UsageError(f"{len(numbers)} values of `mean` or `std` for {channels} channels", where=str(path))
    return numbers


def _output(anatomy: Anatomy, spec: AuditSpec, path: Path) -> tuple[Port, int | None]:
    """The scores' output and the number of classes, where the graph says it."""
    ports = {port.name: port for port in anatomy.outputs}
    if spec.output.name is not None:
        if spec.output.name not in ports:
            raise ModelError(f"has no output `{spec.output.name}`", where=str(path), choices=ports)
        chosen = [ports[spec.output.name]]
    else:
        chosen = _candidates(list(ports.values()), spec.labels)
    if len(chosen) > 1:
        raise ModelError(
            f"gives {len(chosen)} outputs that could be the scores: {', '.join(map(str, chosen))}",
            where=str(path),
            fix=f"write `output: {{name: {chosen[0].name}}}`",
        )
    if not chosen or not _is_scores(chosen[0]):
        raise ModelError(
            f"gives {', '.join(map(str, ports.values()))}: no score for each class of each image",
            where=str(path),
            fix="export the logits or the probabilities ([batch, classes]), not the best classes",
        )
    return chosen[0], _num_classes(chosen[0])


def _candidates(ports: Sequence[Port], labels: tuple[str, ...] | None) -> list[Port]:
    scores = [port for port in ports if _is_scores(port)]
    if labels is not None and len(scores) > 1:
        scores = [port for port in scores if _num_classes(port) in (len(labels), None)]
    return scores


def _is_scores(port: Port) -> bool:
    """Floats, one per class: `[N, C]`, or with further dimensions of 1, or of unknown shape."""
    if port.dtype not in _FLOATS:
        return False
    return port.shape is None or (len(port.shape) >= 2 and sum(dim != 1 for dim in port.shape[1:]) <= 1)


def _num_classes(port: Port) -> int | None:
    dims = [dim for dim in (port.shape or ())[1:] if dim != 1]
    return dims[0] if dims and isinstance(dims[0], int) else None
