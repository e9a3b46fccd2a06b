"""MobileNetV2 and V3 for small images: fewer strides than the originals, otherwise their rows.

V2: Sandler et al. 2018 (arXiv 1801.04381), table 2. V3-small: Howard et al. 2019 (arXiv 1905.02244), table 2.
Where the originals shrink the input 32 times, these shrink it 8 times (16 with `stem_stride: 2`).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Literal, NamedTuple, cast

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from edgekd.networks.tap import Tap, Taps, head, linear
from edgekd.networks.width import scaled

Activation = Literal["relu", "relu6", "hardswish"]

ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hardswish": nn.Hardswish,
}


class Row(NamedTuple):
    """A run of equal blocks. `late` rows use the network's own activation, early rows of V3 use ReLU."""

    expansion: float
    channels: int
    repeats: int
    kernel: int = 3
    squeeze_excite: bool = False
    late: bool = True


class Shape(NamedTuple):
    """The multipliers: channels x `width` in multiples of `divisor`, repeats x `depth` rounded up."""

    width: float
    depth: float
    divisor: int

    def channels(self, channels: float) -> int:
        return scaled(1, channels * self.width, self.divisor)

    def repeats(self, repeats: int) -> int:
        return max(1, math.ceil(repeats * self.depth))


Stages = tuple[tuple[Row, ...], ...]
"""Rows by stage; the first block of every stage but the first has stride 2."""

V2_STAGES: Stages = (
    (Row(1, 16, 1), Row(6, 24, 2)),
    (Row(6, 32, 3),),
    (Row(6, 64, 4), Row(6, 96, 3)),
    (Row(6, 160, 3), Row(6, 320, 1)),
)

V3_STAGES: Stages = (
    (Row(1, 16, 1, 3, True, False),),
    (Row(4.5, 24, 1, 3, False, False), Row(11 / 3, 24, 1, 3, False, False)),
    (Row(4, 40, 1, 5, True), Row(6, 40, 2, 5, True), Row(3, 48, 2, 5, True)),
    (Row(6, 96, 3, 5, True),),
)


class SqueezeExcite(nn.Module):
    """Channel weights from the pooled input (Hu et al. 2018), with the hard sigmoid of MobileNetV3."""

    def __init__(self, channels: int, divisor: int) -> None:
        super().__init__()
        squeezed = scaled(channels, 0.25, divisor)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.relu = nn.ReLU()
        self.restore = nn.Conv2d(squeezed, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, x * self.gate(self.restore(self.relu(self.reduce(self.pool(x))))))


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 projection without activation, plus the input if it fits."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        row: Row,
        activation: type[nn.Module],
        divisor: int,
    ) -> None:
        super().__init__()
        self.residual = stride == 1 and in_channels == out_channels
        hidden = in_channels if row.expansion == 1 else scaled(in_channels, row.expansion, divisor)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if row.expansion != 1:
            layers["expand"] = nn.Conv2d(in_channels, hidden, 1, bias=False)
            layers["expand_bn"] = nn.BatchNorm2d(hidden)
            layers["expand_act"] = activation()
        layers["depthwise"] = nn.Conv2d(
            hidden, hidden, row.kernel, stride, row.kernel // 2, groups=hidden, bias=False
        )
        layers["depthwise_bn"] = nn.BatchNorm2d(hidden)
        layers["depthwise_act"] = activation()
        if row.squeeze_excite:
            layers["squeeze_excite"] = SqueezeExcite(hidden, divisor)
        layers["project"] = nn.Conv2d(hidden, out_channels, 1, bias=False)
        layers["project_bn"] = nn.BatchNorm2d(out_channels)
        self.layers = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layers(x)
        return cast(Tensor, x + out if self.residual else out)


class MobileNetSmall(nn.Module):
    """Input `[B, in_channels, H, W]`, output logits `[B, num_classes]`.

    Stages end in a linear bottleneck, so `stageN` and `stageN:pre` are one point: the input of what follows.
    `hidden` > 0 puts a linear layer of that width before the classifier (V3).
    """

    def __init__(
        self,
        stages: Stages,
        shape: Shape,
        activation: Activation,
        *,
        stem: int,
        last: int,
        hidden: int,
        stem_stride: int,
        in_channels: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        act = ACTIVATIONS[activation]
        channels = shape.channels(stem)
        self.conv = nn.Conv2d(in_channels, channels, 3, stem_stride, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.act = act()
        for number, rows in enumerate(stages, 1):
            blocks, channels = _blocks(rows, channels, 1 if number == 1 else 2, shape, act)
            self.add_module(f"stage{number}", blocks)
        # As in the originals, the head does not shrink below its full width.
        last_channels = max(last, shape.channels(last)) if hidden == 0 else shape.channels(last)
        self.head_conv = nn.Conv2d(channels, last_channels, 1, bias=False)
        self.head_bn = nn.BatchNorm2d(last_channels)
        self.head_act = act()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.hidden = _hidden(last_channels, hidden, act)
        self.linear = nn.Linear(hidden or last_channels, num_classes)
        self.num_stages = len(stages)
        self.taps: Taps = head("linear") | _stage_taps(len(stages))

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn(self.conv(x)))
        for number in range(1, self.num_stages + 1):
            x = self.get_submodule(f"stage{number}")(x)
        x = self.head_act(self.head_bn(self.head_conv(x)))
        return cast(Tensor, self.linear(self.hidden(self.flatten(self.pool(x)))))


def _blocks(
    rows: tuple[Row, ...], in_channels: int, stride: int, shape: Shape, activation: type[nn.Module]
) -> tuple[nn.Sequential, int]:
    blocks = []
    for row in rows:
        out_channels = shape.channels(row.channels)
        for _ in range(shape.repeats(row.repeats)):
            act = activation if row.late else nn.ReLU
            blocks.append(InvertedResidual(in_channels, out_channels, stride, row, act, shape.divisor))
            in_channels, stride = out_channels, 1
    return nn.Sequential(*blocks), in_channels


def _hidden(in_features: int, out_features: int, activation: type[nn.Module]) -> nn.Module:
    if out_features == 0:
        return nn.Identity()
    return nn.Sequential(nn.Linear(in_features, out_features), activation())


def _stage_taps(num_stages: int) -> Taps:
    taps: Taps = {}
    for number in range(1, num_stages + 1):
        following = "head_conv" if number == num_stages else f"stage{number + 1}.0.layers.expand"
        taps |= linear(f"stage{number}", Tap(following, "input"))
    return taps


def mobilenet_v2(
    *,
    num_classes: int,
    in_channels: int,
    width: PositiveFloat = 1.0,
    depth: PositiveFloat = 1.0,
    activation: Activation = "relu6",
    last_channels: PositiveInt = 1280,
    stem_stride: Literal[1, 2] = 1,
    channel_divisor: PositiveInt = 8,
) -> MobileNetSmall:
    """MobileNetV2 for small images. `last_channels` is not scaled below itself, as in the paper."""
    return MobileNetSmall(
        V2_STAGES,
        Shape(width, depth, channel_divisor),
        activation,
        stem=32,
        last=last_channels,
        hidden=0,
        stem_stride=stem_stride,
        in_channels=in_channels,
        num_classes=num_classes,
    )


def mobilenet_v3(
    *,
    num_classes: int,
    in_channels: int,
    width: PositiveFloat = 1.0,
    depth: PositiveFloat = 1.0,
    activation: Activation = "hardswish",
    squeeze_excite: bool = True,
    hidden: NonNegativeInt = 1024,
    stem_stride: Literal[1, 2] = 1,
    channel_divisor: PositiveInt = 8,
) -> MobileNetSmall:
    """MobileNetV3-small for small images; `hidden` is the width of the layer before the classifier."""
    stages = V3_STAGES if squeeze_excite else _without_squeeze_excite(V3_STAGES)
    return MobileNetSmall(
        stages,
        Shape(width, depth, channel_divisor),
        activation,
        stem=16,
        last=576,
        hidden=hidden,
        stem_stride=stem_stride,
        in_channels=in_channels,
        num_classes=num_classes,
    )


def _without_squeeze_excite(stages: Stages) -> Stages:
    return tuple(tuple(row._replace(squeeze_excite=False) for row in rows) for rows in stages)
