"""The branched methods train and deploy every kind of network that edgekd has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from edgekd.core.spec import NetworkSpec
from edgekd.data.batch import Batch
from edgekd.distill.compose import build_program
from edgekd.distill.launch import make_engine
from edgekd.distill.participant import Participant
from edgekd.distill.settings import DistillSettings
from edgekd.distill.validate import validate
from edgekd.networks.catalogue import build
from edgekd.networks.tap import taps_of
from edgekd.train.trainable import Position
from tests.distill.building import RULES, differ

SHAPE = (3, 8, 8)
NETWORKS: dict[str, dict[str, Any]] = {
    "resnet_cifar": {"depth": 8, "base_channels": 8},
    "wrn": {"depth": 10, "width": 1.0},
    "mobilenet_v2": {"width": 0.25, "depth": 0.25, "last_channels": 32},
    "mobilenet_v3": {"width": 0.25, "depth": 0.5, "hidden": 16},
}
NO_IMAGES = np.zeros((2, 8, 8, 3), np.uint8), np.zeros(2, np.int64)


def student(name: str) -> Participant:
    module = build(NetworkSpec(name=name, args=NETWORKS[name], num_classes=4, in_channels=3))
    return Participant(module, taps=taps_of(module))


def batch(number: int) -> Batch:
    generator = torch.Generator().manual_seed(number)
    images = torch.rand(8, *SHAPE, generator=generator)
    return Batch({"x": images}, torch.randint(4, (8,), generator=generator), torch.arange(8))


@pytest.mark.parametrize("method", ["one", "okddip", "byot"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_valid_trains_and_comes_back_as_itself(name: str, method: str) -> None:
    check(name, method, ema=None)


@pytest.mark.parametrize("method", ["one", "okddip", "byot"])
def test_so_does_the_average_of_its_weights(method: str) -> None:
    check("resnet_cifar", method, ema=0.9)


def check(name: str, method: str, *, ema: float | None) -> None:
    network = student(name)
    program = build_program(DistillSettings(method=method), student_taps=tuple(network.taps))
    validate(program, {"student": network}, SHAPE)
    start = {key: value.clone() for key, value in network.module.state_dict().items()}
    engine = make_engine(
        program, student=network, validation=NO_IMAGES, image_shape=SHAPE, rules=RULES, seed=0, ema=ema
    )
    engine.step(batch(0), Position(0, 1, 0, 1))
    deployed = engine.deployed()
    assert type(deployed) is type(network.module)
    trained = {key for key, _ in deployed.named_parameters()}
    assert differ(start, dict(deployed.state_dict())) >= trained, "every parameter has moved"
    assert 0 <= engine.evaluate() <= 1
