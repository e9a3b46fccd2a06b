"""Each family has the sizes its paper or reference code states."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from edgekd.core.errors import ModelError
from edgekd.networks.cost import count
from edgekd.networks.mobilenet_small import mobilenet_v2, mobilenet_v3
from edgekd.networks.resnet_cifar import PadShortcut, resnet_cifar
from edgekd.networks.width import scaled
from edgekd.networks.wrn import wrn


@pytest.mark.parametrize(("depth", "thousands"), [(20, 270), (32, 464), (44, 658), (56, 853)])
def test_cifar_resnets_have_the_published_parameters(depth: int, thousands: int) -> None:
    # As akamaster/pytorch_resnet_cifar10 lists them: 0.27M, 0.46M, 0.66M, 0.85M.
    network = resnet_cifar(num_classes=10, in_channels=3, depth=depth)
    assert round(count(network, (3, 32, 32)).num_parameters / 1000) == pytest.approx(thousands, abs=1)


def test_resnet_20_has_41_million_macs() -> None:
    network = resnet_cifar(num_classes=10, in_channels=3)
    # 3x3 convolutions: 1 of 3 -> 16 and 6 of 16 -> 16 at 32 x 32; 16 -> 32 and 5 of 32 -> 32 at 16 x 16; ...
    first = 1024 * 9 * (3 * 16 + 6 * 16 * 16)
    second = 256 * 9 * (16 * 32 + 5 * 32 * 32)
    third = 64 * 9 * (32 * 64 + 5 * 64 * 64)
    assert count(network, (3, 32, 32)).num_macs == first + second + third + 640


@pytest.mark.parametrize(
    ("depth", "width", "millions"), [(16, 1, 0.2), (16, 2, 0.7), (40, 1, 0.6), (40, 2, 2.2)]
)
def test_wide_resnets_have_the_published_parameters(depth: int, width: int, millions: float) -> None:
    network = wrn(num_classes=10, in_channels=3, depth=depth, width=float(width))
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == millions


def test_mobilenet_v2_keeps_the_originals_parameters() -> None:
    # torchvision's has 3,504,872 with 1000 classes; strides do not change parameters.
    network = mobilenet_v2(num_classes=1000, in_channels=3)
    assert sum(p.numel() for p in network.parameters()) == 3_504_872


def test_mobilenet_v3_keeps_the_originals_parameters() -> None:
    # torchvision's mobilenet_v3_small has 2,542,856 with 1000 classes.
    network = mobilenet_v3(num_classes=1000, in_channels=3)
    assert sum(p.numel() for p in network.parameters()) == 2_542_856


def test_the_activation_is_the_one_asked_for() -> None:
    layers = list(mobilenet_v2(num_classes=2, in_channels=3, width=0.25, activation="hardswish").modules())
    assert any(isinstance(layer, nn.Hardswish) for layer in layers)
    assert not any(isinstance(layer, nn.ReLU | nn.ReLU6) for layer in layers)


def test_shortcut_a_takes_every_second_pixel_and_pads_channels_on_both_sides() -> None:
    x = torch.arange(32.0).view(1, 2, 4, 4)
    y = PadShortcut(2, 5, 2)(x)
    assert y.shape == (1, 5, 2, 2)
    assert torch.equal(y[:, 1:3], x[:, :, ::2, ::2])
    assert y[:, [0, 3, 4]].abs().max() == 0


def test_the_width_factor_scales_every_stage() -> None:
    network = resnet_cifar(num_classes=10, in_channels=3, depth=8, width=0.75)
    assert [network.layer1[0].conv2.out_channels, network.layer3[0].conv2.out_channels] == [12, 48]


@pytest.mark.parametrize(
    ("channels", "width", "divisor", "expected"),
    [(16, 1.0, 4, 16), (16, 0.1, 4, 4), (32, 0.35, 8, 16), (24, 0.75, 8, 24), (16, 1.3, 4, 20)],
)
def test_channels_are_rounded_and_never_lose_a_tenth(
    channels: int, width: float, divisor: int, expected: int
) -> None:
    assert scaled(channels, width, divisor) == expected


def test_a_width_of_zero_is_an_error() -> None:
    with pytest.raises(ModelError, match="positive"):
        scaled(16, 0, 4)
