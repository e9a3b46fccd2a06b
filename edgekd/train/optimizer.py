"""Optimizers by name, with weight decay kept away from norms and biases unless asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import nn

from edgekd.core.config import Config
from edgekd.core.errors import UsageError

Share = Annotated[float, Field(ge=0, lt=1)]


class OptimizerConfig(Config):
    """An optimizer and its settings."""

    name: Literal["sgd", "adamw"] = "sgd"
    learning_rate: PositiveFloat = 0.1
    """At the schedule's peak."""
    momentum: Share = 0.9
    """sgd."""
    nesterov: bool = True
    """sgd; without effect at momentum 0."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """adamw."""
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    """sgd: added to the gradient; adamw: decoupled (Loshchilov & Hutter 2019)."""
    decay_all: bool = False
    """Also decay norms and biases (every parameter of fewer than two dimensions)."""


def make_optimizer(config: OptimizerConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer over those of `parameters` that require a gradient, each taken once.

    Raises `UsageError` when none does.
    """
    trained = list(dict.fromkeys(p for p in parameters if p.requires_grad))
    if not trained:
        raise UsageError("there is no parameter to train: all are frozen")
    groups = _groups(config, trained)
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas)
    return torch.optim.SGD(
        groups,
        lr=config.learning_rate,
        momentum=config.momentum,
        nesterov=config.nesterov and config.momentum > 0,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every parameter group the same rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate


def _groups(config: OptimizerConfig, parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
    decayed = [p for p in parameters if config.decay_all or p.dim() >= 2]
    spared = [p for p in parameters if not config.decay_all and p.dim() < 2]
    groups = [(decayed, config.weight_decay), (spared, 0.0)]
    return [{"params": params, "weight_decay": decay} for params, decay in groups if params]
