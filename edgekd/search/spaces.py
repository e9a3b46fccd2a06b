"""The spaces that come with edgekd, as plain data, and how a recipe names one or writes its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from edgekd.core.errors import UsageError
from edgekd.core.registry import Entry, Registry
from edgekd.search.space import Family, Space

_WIDTHS = (0.25, 0.375, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
_RESOLUTIONS = (1.0, 0.75, 0.5)

RESNET_SMALL = Space(
    families=(
        Family(network="resnet_cifar", depth=(8, 14, 20, 26, 32), width=_WIDTHS, resolution=_RESOLUTIONS),
    )
)
MOBILENET_SMALL = Space(
    families=(
        Family(network="mobilenet_v2", depth=(0.5, 1.0), width=_WIDTHS, resolution=_RESOLUTIONS),
        Family(network="mobilenet_v3", width=_WIDTHS, resolution=_RESOLUTIONS),
    )
)
ZOO = Space(families=(*RESNET_SMALL.families, *MOBILENET_SMALL.families))

SPACES: Registry[Space] = Registry(
    "space",
    [
        Entry("resnet_small", "edgekd.search.spaces:RESNET_SMALL", "CIFAR ResNets, 8 to 32 layers"),
        Entry("mobilenet_small", "edgekd.search.spaces:MOBILENET_SMALL", "MobileNets for small images"),
        Entry("zoo", "edgekd.search.spaces:ZOO", "all families of networks for small images"),
    ],
    group="edgekd.spaces",
)

Written = str | Mapping[str, Any] | list[Mapping[str, Any]]
"""What a recipe may write under `space:`: a name, one family, or a list of families."""


def load_space(written: Written, *, where: str = "space") -> Space:
    """The space that a recipe names or writes out; raises `UsageError` with every problem in it."""
    if isinstance(written, str):
        return SPACES.load(written)
    families = [written] if isinstance(written, Mapping) else written
    try:
        return Space.model_validate({"families": families})
    except ValidationError as error:
        raise UsageError(
            "\n  - ".join(["not a space:", *map(_problem, error.errors())]),
            where=where,
            choices=SPACES.names(),
            fix="name a space, or write {network: NAME, depth: [..], width: [..], resolution: [..]}",
        ) from error


def _problem(details: Any) -> str:
    place = ".".join(str(part) for part in details["loc"][1:])
    return f"{place}: {details['msg']}" if place else str(details["msg"])
