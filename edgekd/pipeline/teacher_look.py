"""Looks at a teacher somebody has: what network it is, what it takes and how many classes it knows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from edgekd.core.errors import MissingDependencyError, ModelError, UsageError
from edgekd.core.shipped import shipped_models
from edgekd.core.spec import ModelSpec
from edgekd.data.inspect import Look
from edgekd.pipeline.weights_look import (
    TORCHVISION,
    check_buildable,
    check_fit,
    ends_of,
    float_bytes,
    guess_network,
    read_shapes,
)

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
_SUFFIXES = (".safetensors", ".pt", ".pth", ".th", ".bin", ".ckpt", ".onnx")


@dataclass(frozen=True)
class FoundTeacher:
    """`keys` are the recipe's, under `teacher:`; `told` are lines for the user."""

    keys: dict[str, Any]
    told: tuple[str, ...]
    size_bytes: int | None = None
    """Of its float32 weights, where they are known."""
    remarks: Mapping[str, str] = field(default_factory=dict)
    """Key -> comment to stand beside it."""


def look_at_teacher(given: str | None, network: str | None, data: Look) -> FoundTeacher:
    """What `given` is: a weights file, an .onnx, a shipped model or `torchvision/NAME`; None: to be trained.

    `network` (`resnet_cifar:depth=56`) names the architecture where it cannot be told from the weights.
    Raises `UsageError` for names that are unknown, `ModelError` when it knows another number of classes than
    the data, cannot be read, or does not fit the architecture.
    """
    if given is None:
        return _to_be_trained(network, data)
    path = Path(given).expanduser()
    if path.is_file():
        return _of_onnx(path, data) if path.suffix == ".onnx" else _of_weights(path, network, data)
    if given in shipped_models():
        return _shipped(given, data)
    if given.startswith(TORCHVISION):
        return _published(given.removeprefix(TORCHVISION), data)
    what = "no such file" if path.suffix in _SUFFIXES else "neither a file nor a shipped model"
    choices = (*shipped_models(), "torchvision/NAME", "a .safetensors, .pt, .pth or .onnx file")
    raise UsageError(what, where=f"--teacher {given}", choices=choices)


def parse_network(text: str) -> tuple[str, dict[str, Any]]:
    """`resnet_cifar:depth=56,width=2` as a name and its arguments; raises `UsageError` for another form."""
    name, _, rest = text.partition(":")
    if name.endswith(".py"):
        raise UsageError(
            "a network in a Python file runs code, which `init` does not decide for you",
            where=f"--network {text}",
            fix="write `python: file.py:function` and `trust_code: true` into the recipe yourself",
        )
    args = {}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise UsageError(
                f"`{item}` is not of the form key=value",
                where=f"--network {text}",
                fix="--network resnet_cifar:depth=56",
            )
        args[key.strip()] = yaml.safe_load(value)
    return name, args


# --- the kinds of teacher -----------------------------------------------------------------------------------


def _to_be_trained(network: str | None, data: Look) -> FoundTeacher:
    side = max(data.image_size)
    if network is not None:
        written, args = parse_network(network)
        check_buildable(written, args, len(data.classes), data.channels)
        keys = _network_keys(written, args)
    elif side <= 64:
        keys = {"network": "resnet_cifar", "args": {"depth": 32 if side > 16 else 20}}
    else:
        keys = {"torchvision": "resnet18"}
    name = _told(keys.get("network") or f"{TORCHVISION}{keys['torchvision']}", keys.get("args", {}))
    remarks = {"epochs": "it is trained here; a better teacher gives a better student"}
    return FoundTeacher(
        {**keys, "epochs": 30}, (f"teacher: none given, so {name} is trained",), None, remarks
    )


def _shipped(name: str, data: Look) -> FoundTeacher:
    spec = yaml.safe_load((shipped_models()[name] / "spec.yaml").read_text(encoding="utf-8"))
    labels = tuple(str(label) for label in spec.get("labels", ()))
    _check_classes(len(labels), data, f"shipped model {name}")
    weights = shipped_models()[name] / "weights.safetensors"
    size = weights.stat().st_size if weights.is_file() else None
    return FoundTeacher({"model": name}, (f"teacher: the shipped model {name}",), size)


def _published(name: str, data: Look) -> FoundTeacher:
    keys: dict[str, Any] = {"torchvision": name}
    if len(data.classes) == 1000:
        told = f"teacher: torchvision's {name} with its published weights"
        return FoundTeacher({**keys, "weights": "published", **_imagenet(3)}, (told,))
    _check_torchvision(name)
    told = f"teacher: torchvision's {name}, trained here: its published weights know 1000 other classes"
    return FoundTeacher({**keys, "epochs": 30}, (told,), None, {"epochs": "trained in this run"})


def _check_torchvision(name: str) -> None:
    if find_spec("torchvision") is None:
        raise MissingDependencyError("torchvision", extra="train", where=f"--teacher torchvision/{name}")
    import torchvision.models as models

    names = models.list_models(module=models)
    if name not in names:
        raise UsageError(f"`{name}` is not a torchvision classifier", choices=names)


def _of_onnx(path: Path, data: Look) -> FoundTeacher:
    channels, size, num_classes = onnx_ends(path)
    if num_classes is not None:
        _check_classes(num_classes, data, str(path))
    keys: dict[str, Any] = {"onnx": str(path)}
    if channels not in (None, data.channels) or size not in (None, data.image_size):
        guessed = _imagenet(channels or data.channels)["preprocess"]
        keys["preprocess"] = {"size": list(size or data.image_size), **guessed}
    told = f"teacher: an ONNX graph of {num_classes or 'an unknown number of'} classes; it gives logits only"
    remarks = {"preprocess": "guessed: put what the graph was trained with", "onnx": "gives logits only"}
    return FoundTeacher(keys, (told,), path.stat().st_size, remarks)


def onnx_ends(path: Path) -> tuple[int | None, tuple[int, int] | None, int | None]:
    """(channels, (height, width), classes) of an ONNX graph; None for what it leaves open.

    Raises `ModelError` for what is not a graph of one float image input `[B, C, H, W]`.
    """
    import onnx

    from edgekd.backends.onnx.anatomy import read

    graph = read(path).graph
    weights = {weight.name for weight in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    shape = _dimensions(inputs[0]) if len(inputs) == 1 else ()
    if len(shape) != 4 or inputs[0].type.tensor_type.elem_type != onnx.TensorProto.FLOAT or not graph.output:
        raise ModelError("the graph must take one float image [B, C, H, W]", where=str(path))
    _, channels, height, width = shape
    out = _dimensions(graph.output[0])
    size = (height, width) if height and width else None
    return channels, size, out[1] if len(out) == 2 else None


def _dimensions(value: Any) -> tuple[int | None, ...]:
    return tuple(d.dim_value or None for d in value.type.tensor_type.shape.dim)


# --- weights ------------------------------------------------------------------------------------------------


def _of_weights(path: Path, network: str | None, data: Look) -> FoundTeacher:
    shapes = read_shapes(path)
    num_classes, in_channels = ends_of(shapes, path)
    spec = _own_spec(path) if network is None else None
    if spec is not None:
        name, args, source = spec.network.name, dict(spec.network.args), "the spec beside it"
    elif network is not None:
        name, args = parse_network(network)
        source = "--network"
    else:
        name, args = guess_network(shapes, path)
        source = "the names and shapes of its weights"
    _check_classes(num_classes, data, str(path))
    checked = check_fit(path, name, args, num_classes, in_channels)
    keys = {**_network_keys(name, args), "weights": str(path), **_preprocess(spec, name, in_channels, data)}
    told = [f"teacher: {_told(name, args)}, {num_classes} classes, by {source}"]
    if not checked:
        told.append("         its weights were not tried: torch is not installed here")
    remarks = {"preprocess": "check it: what the network was trained with"} if spec is None else {}
    return FoundTeacher(keys, tuple(told), float_bytes(shapes), remarks)


def _own_spec(path: Path) -> ModelSpec | None:
    """The spec that edgekd writes beside its weights, if it is there."""
    beside = path.with_name("spec.json")
    try:
        return ModelSpec.model_validate_json(beside.read_bytes())
    except (OSError, ValueError):
        return None


def _preprocess(spec: ModelSpec | None, name: str, in_channels: int, data: Look) -> dict[str, Any]:
    if spec is not None:
        given = json.loads(spec.preprocess.model_dump_json(include={"size", "mean", "std", "scale"}))
        return {"preprocess": given}
    known = name.startswith(TORCHVISION) or name == "resnet_cifar"
    if in_channels == 3 and (known or data.channels != 3):
        return _imagenet(3)
    if in_channels != data.channels:
        return _imagenet(in_channels)
    return {}


def _imagenet(channels: int | None) -> dict[str, Any]:
    """ImageNet's statistics, averaged over color for one channel."""
    if channels == 1:
        return {"preprocess": {name: [round(sum(values) / 3, 3)] for name, values in IMAGENET.items()}}
    return {"preprocess": {name: list(values) for name, values in IMAGENET.items()}}


def _network_keys(name: str, args: dict[str, Any]) -> dict[str, Any]:
    arguments = {"args": args} if args else {}
    if name.startswith(TORCHVISION):
        return {"torchvision": name.removeprefix(TORCHVISION), **arguments}
    return {"network": name, **arguments}


def _told(name: str, args: Mapping[str, Any]) -> str:
    arguments = ", ".join(f"{key}={value}" for key, value in args.items())
    return f"{name}({arguments})" if arguments else name


def _check_classes(num_classes: int, data: Look, where: str) -> None:
    if num_classes != len(data.classes):
        raise ModelError(
            f"the teacher knows {num_classes} classes and the data has {len(data.classes)}",
            where=where,
            fix="give data with the teacher's classes, or a teacher that was trained on this data",
        )
