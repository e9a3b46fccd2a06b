"""How an architecture and a model are written down: plain data that a fresh process can rebuild."""

from __future__ import annotations

from typing import Any

from edgekd.core.config import Config
from edgekd.core.preprocess import Preprocess


class NetworkSpec(Config):
    """An architecture: a registered name (or `file.py:function`), its arguments and its two ends."""

    name: str
    args: dict[str, Any] = {}
    num_classes: int
    in_channels: int


class ModelSpec(Config):
    """An architecture with what it needs at its two ends.

    `transforms` lists the rewrites (such as quantization) applied after building, in order, as plain data.
    """

    network: NetworkSpec
    preprocess: Preprocess
    labels: tuple[str, ...]
    transforms: tuple[dict[str, Any], ...] = ()
