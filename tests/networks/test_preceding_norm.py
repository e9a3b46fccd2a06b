"""The batch norm before a tap, in every family: in a sum, that of the block's last convolution."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from edgekd.core.spec import NetworkSpec
from edgekd.networks.catalogue import build
from edgekd.networks.preceding_norm import preceding_norm
from edgekd.networks.tap import Tap, taps_of

FAMILIES: list[tuple[str, dict[str, Any], dict[str, str | None]]] = [
    ("resnet_cifar", {"depth": 20}, {"stage1:pre": "layer1.2.bn2", "stage3:pre": "layer3.2.bn2"}),
    # One block a stage: the shortcut ends in a batch norm too.
    ("resnet_cifar", {"depth": 8, "shortcut": "B"}, {"stage2:pre": "layer2.0.bn2"}),
    ("wrn", {"depth": 16}, {"stage1:pre": "block2.layer.0.bn1", "stage3:pre": "bn1"}),
    ("mobilenet_v2", {}, {"stage2:pre": "stage2.2.layers.project_bn"}),
    ("torchvision/resnet18", {}, {"stage2:pre": "layer2.1.bn2", "stage4:pre": "layer4.1.bn2"}),
    ("resnet_cifar", {"depth": 8}, {"stage1": None, "embedding": None}),
]


@pytest.mark.parametrize(("name", "args", "expected"), FAMILIES)
def test_norm_before_a_tap(name: str, args: dict[str, Any], expected: dict[str, str | None]) -> None:
    module = build(NetworkSpec(name=name, args=args, num_classes=5, in_channels=3))
    taps = taps_of(module)
    for tap, path in expected.items():
        wanted = None if path is None else module.get_submodule(path)
        assert preceding_norm(module, taps[tap]) is wanted, tap


class Branching(nn.Module):
    """Control flow on its input: it cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.relu = nn.BatchNorm2d(3), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        active: Tensor = self.relu(self.norm(x if bool(x.sum() > 0) else -x))
        return active


def test_a_network_that_cannot_be_traced_tells_nothing() -> None:
    module = Branching()
    assert preceding_norm(module, Tap("relu", "input")) is None
    assert module(torch.ones(2, 3, 4, 4)).shape == (2, 3, 4, 4)


def test_an_activation_right_behind_a_convolution_has_none() -> None:
    assert preceding_norm(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), Tap("1", "input")) is None


def test_dropout_between_norm_and_tap_is_looked_through() -> None:
    norm = nn.BatchNorm2d(3)
    module = nn.Sequential(norm, nn.Dropout(0.5), nn.ReLU())
    assert preceding_norm(module, Tap("2", "input")) is norm
