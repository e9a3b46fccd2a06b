"""Wide ResNets: Zagoruyko & Komodakis 2016 (arXiv 1605.07146), pre-activation blocks, depth 6n + 4.

Module names follow the WRN of HobbitLong/RepDistiller, so weights in its form load.
"""

from __future__ import annotations

from typing import Annotated, cast

from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from edgekd.core.errors import ModelError
from edgekd.networks.tap import Taps, activation, head
from edgekd.networks.width import scaled


class PreActivationBlock(nn.Module):
    """bn-relu-conv-bn-relu-conv, plus the input; where the shape changes, plus a 1x1 convolution of the
    first activation."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.same_shape = stride == 1 and in_channels == out_channels
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        if not self.same_shape:
            self.convShortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu1(self.bn1(x))
        out = self.conv2(self.dropout(self.relu2(self.bn2(self.conv1(active)))))
        return cast(Tensor, out + (x if self.same_shape else self.convShortcut(active)))


class Group(nn.Module):
    """The blocks of one stage; the first one changes the shape."""

    def __init__(
        self, num_blocks: int, in_channels: int, out_channels: int, stride: int, dropout: float
    ) -> None:
        super().__init__()
        first = PreActivationBlock(in_channels, out_channels, stride, dropout)
        rest = [PreActivationBlock(out_channels, out_channels, 1, dropout) for _ in range(num_blocks - 1)]
        self.layer = nn.Sequential(first, *rest)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.layer(x))


class WideResNet(nn.Module):
    """Input `[B, in_channels, H, W]` (H, W at least 4), output logits `[B, num_classes]`.

    A stage's tap is the activation that follows it: the first one of the next stage, or the last one.
    """

    def __init__(
        self,
        num_blocks: int,
        widths: tuple[int, int, int, int],
        dropout: float,
        in_channels: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, 1, 1, bias=False)
        self.block1 = Group(num_blocks, widths[0], widths[1], 1, dropout)
        self.block2 = Group(num_blocks, widths[1], widths[2], 2, dropout)
        self.block3 = Group(num_blocks, widths[2], widths[3], 2, dropout)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(widths[3], num_classes)
        self.taps: Taps = head("fc")
        for stage, path in enumerate(("block2.layer.0.relu1", "block3.layer.0.relu1", "relu"), 1):
            self.taps |= activation(f"stage{stage}", path)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        x = self.relu(self.bn1(x))
        return cast(Tensor, self.fc(self.flatten(self.pool(x))))


def wrn(
    *,
    num_classes: int,
    in_channels: int,
    depth: int = 16,
    width: PositiveFloat = 2.0,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    channel_divisor: PositiveInt = 4,
) -> WideResNet:
    """WRN-`depth`-`width`: stages of 16, 32 and 64 x `width` channels.

    Raises `ModelError` for a depth that is not 6n + 4.
    """
    if depth < 10 or (depth - 4) % 6:
        raise ModelError(
            f"a wide ResNet has depth 6n + 4, not {depth}", choices=["10", "16", "22", "28", "40"]
        )
    first, second, third = (scaled(channels, width, channel_divisor) for channels in (16, 32, 64))
    return WideResNet((depth - 4) // 6, (16, first, second, third), dropout, in_channels, num_classes)
