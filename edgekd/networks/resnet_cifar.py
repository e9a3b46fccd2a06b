"""ResNets for small images: He et al. 2016 (arXiv 1512.03385), section 4.2, depth 6n + 2.

Module names follow akamaster/pytorch_resnet_cifar10, so its published ResNet-20 .. 110 weights load as is.
"""

from __future__ import annotations

from typing import Literal, cast

import torch.nn.functional as F
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from edgekd.core.errors import ModelError
from edgekd.networks.tap import Taps, activation, head
from edgekd.networks.width import scaled

Shortcut = Literal["A", "B"]


class PadShortcut(nn.Module):
    """Option A: every `stride`-th pixel, new channels filled with zeros half before and half after."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (out_channels - in_channels) // 2
        self.after = out_channels - in_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.before, self.after))


def shortcut_of(kind: Shortcut, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Identity where the shape stays; else option A (padding) or B (1x1 convolution and batch norm)."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    if kind == "A":
        return PadShortcut(in_channels, out_channels, stride)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
    )


class BasicBlock(nn.Module):
    """conv-bn-relu-conv-bn, plus the shortcut, relu."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = shortcut_of(shortcut, in_channels, out_channels, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return cast(Tensor, self.relu2(out + self.shortcut(x)))


class ResNetCifar(nn.Module):
    """Input `[B, in_channels, H, W]` (H, W at least 4), output logits `[B, num_classes]`."""

    def __init__(
        self,
        num_blocks: int,
        widths: tuple[int, int, int],
        shortcut: Shortcut,
        in_channels: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu1 = nn.ReLU()
        self.layer1 = _stage(widths[0], widths[0], 1, num_blocks, shortcut)
        self.layer2 = _stage(widths[0], widths[1], 2, num_blocks, shortcut)
        self.layer3 = _stage(widths[1], widths[2], 2, num_blocks, shortcut)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(widths[2], num_classes)
        self.taps: Taps = head("linear")
        for stage in (1, 2, 3):
            self.taps |= activation(f"stage{stage}", f"layer{stage}.{num_blocks - 1}.relu2")

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return cast(Tensor, self.linear(self.flatten(self.pool(x))))


def _stage(
    in_channels: int, out_channels: int, stride: int, num_blocks: int, shortcut: Shortcut
) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride, shortcut)
    rest = [BasicBlock(out_channels, out_channels, 1, shortcut) for _ in range(num_blocks - 1)]
    return nn.Sequential(first, *rest)


def resnet_cifar(
    *,
    num_classes: int,
    in_channels: int,
    depth: int = 20,
    width: PositiveFloat = 1.0,
    base_channels: PositiveInt = 16,
    shortcut: Shortcut = "A",
    channel_divisor: PositiveInt = 4,
) -> ResNetCifar:
    """A ResNet of `depth` 6n + 2 with stages of 1x, 2x and 4x `base_channels * width` channels.

    Raises `ModelError` for a depth that is not 6n + 2 or is above the paper's deepest, 1202.
    """
    if not 8 <= depth <= 1202 or (depth - 2) % 6:
        raise ModelError(
            f"a CIFAR ResNet has depth 6n + 2, not {depth}",
            choices=["8", "14", "20", "26", "32", "44", "56", "110"],
        )
    first, second, third = (scaled(base_channels * factor, width, channel_divisor) for factor in (1, 2, 4))
    return ResNetCifar((depth - 2) // 6, (first, second, third), shortcut, in_channels, num_classes)
