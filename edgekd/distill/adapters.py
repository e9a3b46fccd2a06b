"""Modules that bring one network's features to another's shape; trained, never deployed."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

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
        mapped: Tensor = self.convolution(features)
        if tuple(mapped.shape[2:]) == self.size:
            return mapped
        if mapped.shape[2] >= self.size[0]:
            return F.adaptive_avg_pool2d(mapped, self.size)
        return F.interpolate(mapped, self.size, mode="bilinear", align_corners=False)


def regressor(source: Point, target: Point) -> ModuleBuilder:
    """A `Regressor` from one tap to the shape of another; a linear map where the taps are vectors."""

    def build(shapes: Shapes) -> nn.Module:
        given, wanted = shapes[source], shapes[target]
        if len(given) == 1 and len(wanted) == 1:
            return nn.Linear(given[0], wanted[0])
        return Regressor(given[0], wanted[0], (wanted[1], wanted[2]))

    return build
