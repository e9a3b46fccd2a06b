"""From a batch at the data's resolution to what a model expects, on the device and differentiable."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.core.errors import ModelError
from edgekd.core.preprocess import Preprocess

LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601, what Pillow's `convert("L")` uses."""


class Normalize(nn.Module):
    """float `[B, C, H, W]` in [0, 1] to the model's input `[B, c, h, w]`, per its `Preprocess`.

    Converts 1 <-> 3 channels, resizes where sizes differ (anti-aliased as Pillow does), then
    `(x * 255 * scale - mean) / std`. It has no parameters and nothing in its state dict.
    """

    mean: Tensor
    std: Tensor
    luma: Tensor

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.register_buffer("mean", _per_channel(preprocess.mean), persistent=False)
        self.register_buffer("std", _per_channel(preprocess.std), persistent=False)
        self.register_buffer("luma", _per_channel(LUMA), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self._resized(self._channels(x))
        return (x * (255 * self.preprocess.scale) - self.mean) / self.std

    def _channels(self, x: Tensor) -> Tensor:
        given, wanted = x.shape[1], self.preprocess.num_channels
        if given == wanted:
            return x
        if (given, wanted) == (1, 3):
            return x.expand(-1, 3, -1, -1)
        if (given, wanted) == (3, 1):
            return (x * self.luma).sum(1, keepdim=True)
        raise ModelError(f"the model takes {wanted} channels and the batch has {given}")

    def _resized(self, x: Tensor) -> Tensor:
        size = self.preprocess.size
        if tuple(x.shape[2:]) == size:
            return x
        mode = self.preprocess.resize
        if mode == "nearest":
            # Where a pixel's center falls between two pixels, Pillow may take the other one.
            return F.interpolate(x, size, mode="nearest-exact")
        # As Pillow: along the width, then along the height, and into the byte range after each (bicubic
        # overshoots).
        for part in ((x.shape[2], size[1]), size):
            x = F.interpolate(x, part, mode=mode, align_corners=False, antialias=True).clamp(0, 1)
        return x


def _per_channel(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
