"""Checks the networks that a recipe names before any compute is spent: their names, arguments and taps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator

from edgekd.core.errors import UsageError
from edgekd.core.spec import NetworkSpec
from edgekd.networks.names import NETWORKS
from edgekd.search.spaces import load_space
from edgekd.stages.stage import KnownStep

if TYPE_CHECKING:
    from torch import nn

_LIBRARIES = ("torchvision", "timm")
_NAMING = ("teacher", "student")
"""Stages whose configuration names a network."""
_MOST_CANDIDATES = 10_000
_ANY_CLASSES, _ANY_CHANNELS = 10, 3
"""Names, arguments and taps of a network do not depend on these."""


def _known_network(name: str) -> str:
    """A registered name, `library/model` or `file.py:function`; raises `ValueError` with the choices."""
    library, slash, model = name.partition("/")
    if python_file(name) is not None or (slash and model and library in _LIBRARIES):
        return name
    try:
        NETWORKS.entry(name)
    except UsageError as error:
        raise ValueError(str(error)) from None
    return name


def _known_space(written: Any) -> Any:
    try:
        families = load_space(written).families
        for family in families:
            NETWORKS.entry(family.network)
            if math.prod(map(len, family.lists())) > _MOST_CANDIDATES:
                raise UsageError(f"a family has more than {_MOST_CANDIDATES} candidates")
    except UsageError as error:
        raise ValueError(str(error)) from None
    return written


def python_file(name: str) -> Path | None:
    """The file of a network named `file.py:function`; None for any other name."""
    file, colon, _ = name.rpartition(":")
    return Path(file) if colon and file.endswith(".py") else None


NetworkName = Annotated[str, AfterValidator(_known_network)]
KnownSpace = AfterValidator(_known_space)


def trial_network(
    name: str,
    args: Mapping[str, Any],
    *,
    num_classes: int = _ANY_CLASSES,
    in_channels: int = _ANY_CHANNELS,
    device: str = "meta",
) -> nn.Module | None:
    """The network, on `meta` without memory; None for a Python file, which only a run may execute.

    Raises `ModelError` for arguments that it does not take.
    """
    import torch

    from edgekd.networks.catalogue import build

    if python_file(name) is not None:
        return None
    spec = NetworkSpec(name=name, args=dict(args), num_classes=num_classes, in_channels=in_channels)
    with torch.device(device):
        return build(spec)


def origin(step: KnownStep) -> KnownStep:
    """The step that says which network the step's model is: training and quantization keep it."""
    if step.stage in _NAMING:
        return step
    feeders = step.inputs.get("student") or step.inputs.get("model") or ()
    return origin(feeders[0]) if feeders else step


def trial_taps(steps: Sequence[KnownStep]) -> list[list[str]] | None:
    """The tap names of the networks that steps name by hand; None where one of them is not known yet."""
    found = []
    for step in steps:
        taps = _taps(origin(step))
        if taps is None:
            return None
        found.append(taps)
    return found


def trial_labels(steps: Sequence[KnownStep]) -> list[tuple[str, ...] | None]:
    """The class names of each step's model; None: those of the data."""
    return [_labels(origin(step)) for step in steps]


def _labels(step: KnownStep) -> tuple[str, ...] | None:
    try:
        labels: tuple[str, ...] | None = step.config.own_labels() if step.stage == "teacher" else None
        return labels
    except UsageError:
        return None  # told where the model is named


def _taps(step: KnownStep) -> list[str] | None:
    from edgekd.networks.tap import taps_of

    if getattr(step.config, "onnx", None) is not None:
        return ["logits"]
    try:
        network = step.config.trial() if step.stage in _NAMING else None
    except UsageError:
        return None  # told where the network is named
    return list(taps_of(network)) if network is not None else None
