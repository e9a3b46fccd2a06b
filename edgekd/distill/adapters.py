"""Modules that bring one network's features to another's shape; trained, never deployed."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.core.errors import UsageError
from edgekd.distill.kernels.regress import as_map
from edgekd.distill.program import ModuleBuilder, Shapes

Point = tuple[str, str]
"""(role, tap)."""


class Regressor(nn.Module):
    """1x1 convolution to the wanted channels, then average pooling or bilinear growth to the wanted size.

    [B, in_channels, h, w] -> [B, out_channels, H, W].
    """

    def __init__(self, in_channels: int, out_channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.convolution = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        return resized(self.convolution(as_map(features)), self.size)


class Connector(nn.Module):
    """1x1 convolution without bias, resizing, batch norm: pre-activations comparable with another network's.

    [B, in_channels, h, w] -> [B, out_channels, H, W]. Weights as in Heo et al. 2019 (normal, fan-out).
    """

    def __init__(self, in_channels: int, out_channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.convolution = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        nn.init.kaiming_normal_(self.convolution.weight, mode="fan_out", nonlinearity="relu")
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, features: Tensor) -> Tensor:
        return normalized(self.norm, resized(self.convolution(as_map(features)), self.size))


def normalized(norm: nn.BatchNorm2d, features: Tensor) -> Tensor:
    """`norm(features)`, [B, C, H, W]. Raises `UsageError` where one value per channel is all there is."""
    if norm.training and features.numel() == features.shape[1]:
        raise UsageError(
            "batch norm cannot learn from one value per channel: one image, and a map of one position",
            fix="use a batch size of two or more",
        )
    result: Tensor = norm(features)
    return result


def resized(features: Tensor, size: tuple[int, int]) -> Tensor:
    """[B, C, h, w] -> [B, C, H, W]: average-pooled to a smaller size, grown bilinearly to a larger one."""
    if tuple(features.shape[2:]) == size:
        return features
    if features.shape[2] >= size[0]:
        return F.adaptive_avg_pool2d(features, size)
    return F.interpolate(features, size, mode="bilinear", align_corners=False)


def map_shape(shapes: Shapes, point: Point) -> tuple[int, int, int]:
    """(C, H, W) of a tap; a vector is a map of one position."""
    channels, *size = shapes[point]
    height, width = size or (1, 1)
    return channels, height, width


def regressor(source: Point, target: Point) -> ModuleBuilder:
    """A `Regressor` from one tap to the shape of another; a linear map where the taps are vectors."""

    def build(shapes: Shapes) -> nn.Module:
        given, wanted = shapes[source], shapes[target]
        if len(given) == 1 and len(wanted) == 1:
            return nn.Linear(given[0], wanted[0])
        channels, height, width = map_shape(shapes, target)
        mapped = Regressor(given[0], channels, (height, width))
        return nn.Sequential(mapped, nn.Flatten()) if len(wanted) == 1 else mapped

    return build


def connector(source: Point, target: Point) -> ModuleBuilder:
    """A `Connector` from one tap to the shape of another."""

    def build(shapes: Shapes) -> nn.Module:
        channels, height, width = map_shape(shapes, target)
        return Connector(shapes[source][0], channels, (height, width))

    return build
