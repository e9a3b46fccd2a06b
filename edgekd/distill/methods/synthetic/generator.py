"""A network that makes images of any size from random vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_WIDTH = 128
_SLOPE = 0.2


class Generator(nn.Module):
    """[B, latent_size] -> images [B, N, H, W] in [0, 1]: a linear layer and three convolutions, grown twice.

    The plan is that of Chen et al. 2019 (DAFL): a quarter, half and the whole of the size, 128, 128 and 64
    channels. Its last batch norm gives pixels one mean and spread, here before a sigmoid that keeps them in
    [0, 1].
    """

    def __init__(self, latent_size: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        num_channels, height, width = shape
        self.sizes = [(-(-height // part), -(-width // part)) for part in (4, 2, 1)]
        rows, columns = self.sizes[0]
        self.linear = nn.Linear(latent_size, _WIDTH * rows * columns)
        self.norm = nn.BatchNorm2d(_WIDTH)
        self.middle = _block(_WIDTH, _WIDTH)
        self.last = _block(_WIDTH, _WIDTH // 2)
        self.image = nn.Conv2d(_WIDTH // 2, num_channels, 3, 1, 1)
        self.pixels = nn.BatchNorm2d(num_channels, affine=False)

    def forward(self, latent: Tensor) -> Tensor:
        first, half, whole = self.sizes
        x = self.norm(self.linear(latent).unflatten(1, (_WIDTH, *first)))
        x = self.middle(F.interpolate(x, half))
        x = self.last(F.interpolate(x, whole))
        return torch.sigmoid(self.pixels(self.image(x)))


def _block(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, 1, 1), nn.BatchNorm2d(out_channels), nn.LeakyReLU(_SLOPE)
    )
