"""Looks at a file of weights: shapes by name, the network they belong to, and whether they fit it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from edgekd.core.errors import MissingDependencyError, ModelError
from edgekd.core.spec import NetworkSpec

TORCHVISION = "torchvision/"
_STEMS = ("conv1.weight", "features.0.0.weight", "features.0.weight", "features.conv0.weight")
_CLASSIFIER = re.compile(r"(fc|linear|head|classifier)(?:\.(\d+))?\.weight")

Shapes = dict[str, tuple[int, ...]]
"""The shape of every weight in a file, by key."""

_FAMILIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "layer4.0.conv2.weight",
        ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "resnext50_32x4d"),
    ),
    ("features.0.0.weight", ("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "efficientnet_b0")),
    ("features.denseblock1.denselayer1.norm1.weight", ("densenet121", "densenet169")),
    ("features.0.weight", ("vgg11", "vgg16", "vgg11_bn", "vgg16_bn", "alexnet")),
    ("stage2.0.branch1.0.weight", ("shufflenet_v2_x0_5", "shufflenet_v2_x1_0")),
)
"""A key that all models of a torchvision family have, and the models that are tried."""


def read_shapes(path: Path) -> Shapes:
    """The shape of every weight, from the header alone for safetensors; never unpickled.

    Raises `ModelError` for a damaged or hostile file, `MissingDependencyError` for a torch file without
    torch.
    """
    if path.suffix == ".safetensors":
        return _safetensors_shapes(path)
    return {key: tuple(value.shape) for key, value in _torch_weights(path).read_state(path).items()}


def _safetensors_shapes(path: Path) -> Shapes:
    from safetensors import safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors raises its own class for some damage and others for the rest
        raise ModelError(f"not a readable safetensors file: {str(error)[:200]}", where=str(path)) from error
    if all(key.startswith("module.") for key in shapes):
        return {key.removeprefix("module."): shape for key, shape in shapes.items()}
    return shapes


def _torch_weights(path: Path) -> ModuleType:
    try:
        from edgekd.networks import weights
    except ModuleNotFoundError as error:
        raise MissingDependencyError("torch", extra="train", where=str(path)) from error
    return weights


def ends_of(shapes: Shapes, path: Path) -> tuple[int, int]:
    """(classes, input channels): rows of the last classifier matrix, and channels of the first convolution.

    Raises `ModelError` for weights that are not those of an image classifier.
    """
    matrices = {key: shape for key, shape in shapes.items() if len(shape) == 2}
    channels = _stem_channels(shapes)
    if channels is None or not matrices:
        lacking = "no matrix" if channels else "no convolution of an image with 1 or 3 channels"
        raise ModelError(f"not the weights of an image classifier: {lacking}", where=str(path))
    named = {key: match for key in matrices if (match := _CLASSIFIER.fullmatch(key))}
    last = max(named, key=lambda key: int(named[key][2] or 0)) if named else list(matrices)[-1]
    return matrices[last][0], channels


def _stem_channels(shapes: Shapes) -> int | None:
    for key in _STEMS:
        if len(shapes.get(key, ())) == 4:
            return shapes[key][1]
    # Depthwise convolutions have one channel too, so three is the surer sign of a stem.
    seen = {shape[1] for shape in shapes.values() if len(shape) == 4}
    return 3 if 3 in seen else 1 if 1 in seen else None


def guess_network(shapes: Shapes, path: Path) -> tuple[str, dict[str, Any]]:
    """Name and arguments of the network whose weights have these names and shapes; raises `ModelError`."""
    args = _resnet_cifar(shapes)
    if args is not None:
        return "resnet_cifar", args
    num_classes, _ = ends_of(shapes, path)
    for name in _torchvision_candidates(shapes):
        if _same_trunk(name, shapes, num_classes):
            return f"{TORCHVISION}{name}", {}
    raise ModelError(
        f"cannot tell the network from its {len(shapes)} weights",
        where=str(path),
        fix="name it: --network resnet_cifar:depth=56 (`edgekd list networks`)",
    )


def _resnet_cifar(shapes: Shapes) -> dict[str, Any] | None:
    """The arguments of a CIFAR ResNet with akamaster's key names, or None."""
    blocks = {key for key in shapes if re.fullmatch(r"layer1\.\d+\.conv1\.weight", key)}
    stem, linear = shapes.get("conv1.weight", ()), shapes.get("linear.weight", ())
    if not blocks or "layer4.0.conv1.weight" in shapes or len(stem) != 4 or len(linear) != 2:
        return None
    args: dict[str, Any] = {"depth": 6 * len(blocks) + 2}
    if stem[0] != 16:
        args["base_channels"] = stem[0]
    if "layer2.0.shortcut.0.weight" in shapes:
        args["shortcut"] = "B"
    return args


def _torchvision_candidates(shapes: Shapes) -> Iterator[str]:
    if find_spec("torchvision") is not None:
        for key, names in _FAMILIES:
            if key in shapes:
                yield from names


def _same_trunk(name: str, shapes: Shapes, num_classes: int) -> bool:
    """Whether the model has these weights; only a first convolution may have other input channels."""
    import torch
    from torchvision.models import get_model

    with torch.device("meta"):
        state = get_model(name, weights=None, num_classes=num_classes).state_dict()
    if set(state) != set(shapes):
        return False
    different = [key for key, value in state.items() if tuple(value.shape) != shapes[key]]
    return all(state[key].dim() == 4 and state[key].shape[1] == 3 for key in different)


def check_fit(path: Path, name: str, args: dict[str, Any], num_classes: int, in_channels: int) -> bool:
    """Build the network and load the weights into it; False where torch is not installed.

    Raises `ModelError` for arguments that are not the network's and for weights that do not fit it.
    """
    try:
        from edgekd.networks.catalogue import build
    except ModuleNotFoundError:
        return False
    weights = _torch_weights(path)
    spec = NetworkSpec(name=name, args=args, num_classes=num_classes, in_channels=in_channels)
    weights.load_strict(build(spec), weights.read_state(path), where=str(path))
    return True


def check_buildable(name: str, args: dict[str, Any], num_classes: int, in_channels: int) -> None:
    """Raises `ModelError` for an unknown network or wrong arguments; without torch nothing is checked."""
    try:
        from edgekd.networks.catalogue import build
    except ModuleNotFoundError:
        return
    build(NetworkSpec(name=name, args=args, num_classes=num_classes, in_channels=in_channels))


def float_bytes(shapes: Shapes) -> int:
    """What the weights take as float32."""
    return sum(4 * math.prod(shape) for shape in shapes.values())
