"""Rewrites that a model's spec lists: applied after building, before the weights are loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from edgekd.core.errors import ModelError
from edgekd.core.registry import Entry, Registry

Transform = Callable[[nn.Module, dict[str, Any]], nn.Module]
"""`transform(module, settings) -> module`. The result carries its own `taps` (`tap.declare`)."""

TRANSFORMS: Registry[Transform] = Registry(
    "transform",
    [Entry("quantize", "edgekd.quant.transform:apply", "fold batch norm and insert fake quantization")],
    group="edgekd.transforms",
)

KEY = "transform"
"""The key of a transform's dict that holds its registered name; the other keys are its settings."""


def apply_transforms(module: nn.Module, transforms: Iterable[Mapping[str, Any]]) -> nn.Module:
    """Apply `{"transform": name, **settings}` in order. Raises `ModelError` for a dict that names none."""
    for transform in transforms:
        if not isinstance(transform.get(KEY), str):
            raise ModelError(
                f"a transform needs the key `{KEY}`: {dict(transform)}", choices=TRANSFORMS.names()
            )
        settings = {key: value for key, value in transform.items() if key != KEY}
        module = TRANSFORMS.load(transform[KEY])(module, settings)
    return module
