"""A small model to save, load and damage."""

from __future__ import annotations

from typing import Any

from edgekd.core.preprocess import Preprocess
from edgekd.core.spec import ModelSpec, NetworkSpec
from edgekd.networks.initialize import init_weights
from edgekd.networks.model import Model, build_model


def small_spec(name: str = "resnet_cifar", args: dict[str, Any] | None = None, **other: Any) -> ModelSpec:
    args = {"depth": 8, "width": 0.25} if args is None else args
    return ModelSpec(
        network=NetworkSpec(name=name, args=args, num_classes=3, in_channels=1),
        preprocess=Preprocess(size=(8, 8), mean=(0.5,), std=(0.25,)),
        labels=("a", "b", "c"),
        **other,
    )


def small_model(seed: int = 0) -> Model:
    model = build_model(small_spec())
    init_weights(model.module, seed, "student")
    return model
