"""Where the recipes and models that come with edgekd lie: package data of a wheel, or the checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped(kind: Literal["pipelines", "models"]) -> Path:
    """The folder of shipped recipes or models."""
    packaged = _PACKAGE / "_shipped" / kind
    return packaged if packaged.is_dir() else _PACKAGE.parent / kind


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of every shipped recipe."""
    return {path.stem: path for path in sorted(shipped("pipelines").glob("*.yaml"))}


def shipped_models() -> dict[str, Path]:
    """`<network>.<tag>` -> folder of every shipped model."""
    return {path.parent.name: path.parent for path in sorted(shipped("models").glob("*/spec.yaml"))}
