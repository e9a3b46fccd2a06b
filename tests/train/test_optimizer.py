"""Optimizers take their steps as their formulas say, and spare norms and biases from decay."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.core.errors import UsageError
from edgekd.train.optimizer import OptimizerConfig, make_optimizer, set_learning_rate


def after(config: OptimizerConfig, gradients: list[float], start: float = 2.0) -> float:
    """A 1x1 weight after steps with the given gradients."""
    weight = nn.Parameter(torch.tensor([[start]]))
    optimizer = make_optimizer(config, [weight])
    for gradient in gradients:
        weight.grad = torch.tensor([[gradient]])
        optimizer.step()
    return weight.item()


def test_sgd_with_nesterov_momentum_and_decay() -> None:
    config = OptimizerConfig(learning_rate=0.1, momentum=0.9, weight_decay=0.01)
    weight, velocity = np.float64(2.0), None
    for gradient in (1.0, -0.5, 0.25):
        decayed = gradient + 0.01 * weight
        velocity = decayed if velocity is None else 0.9 * velocity + decayed
        weight -= 0.1 * (decayed + 0.9 * velocity)
    assert after(config, [1.0, -0.5, 0.25]) == pytest.approx(float(weight), rel=1e-6)


def test_adamw_first_step_is_the_sign_of_the_gradient_plus_decay() -> None:
    config = OptimizerConfig(name="adamw", learning_rate=0.1, weight_decay=0.01)
    assert after(config, [0.3]) == pytest.approx(2.0 * (1 - 0.1 * 0.01) - 0.1, rel=1e-6)


def test_norms_and_biases_are_not_decayed() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    optimizer = make_optimizer(OptimizerConfig(weight_decay=0.1), module.parameters())
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert {name: decays[id(p)] for name, p in module.named_parameters()} == {
        "0.weight": 0.1,
        "0.bias": 0.0,
        "1.weight": 0.0,
        "1.bias": 0.0,
    }


def test_decay_all_decays_them_too() -> None:
    module = nn.BatchNorm2d(2)
    optimizer = make_optimizer(OptimizerConfig(weight_decay=0.1, decay_all=True), module.parameters())
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.1]


def test_frozen_parameters_are_left_out_and_repeated_ones_taken_once() -> None:
    trained, frozen = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1), requires_grad=False)
    optimizer = make_optimizer(OptimizerConfig(), [trained, frozen, trained])
    assert [p is trained for g in optimizer.param_groups for p in g["params"]] == [True]


def test_nothing_to_train_is_an_error() -> None:
    with pytest.raises(UsageError, match="frozen"):
        make_optimizer(OptimizerConfig(), [nn.Parameter(torch.ones(1), requires_grad=False)])


def test_momentum_zero_needs_no_nesterov() -> None:
    assert after(OptimizerConfig(learning_rate=0.1, momentum=0, weight_decay=0), [1.0]) == pytest.approx(1.9)


def test_the_learning_rate_is_set_in_every_group() -> None:
    module = nn.Linear(2, 2)
    optimizer = make_optimizer(OptimizerConfig(), module.parameters())
    set_learning_rate(optimizer, 0.025)
    assert [g["lr"] for g in optimizer.param_groups] == [0.025, 0.025]
