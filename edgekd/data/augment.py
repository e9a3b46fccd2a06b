"""Seeded augmentation of whole batches on tensors.

Shapes: B images, C channels, H x W pixels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as functional
from torch import Generator, Tensor

from edgekd.data.augmentation import Augment

__all__ = ["Augment", "augment", "to_float"]

_MID_GRAY = 0.5


def augment(images: Tensor, settings: Augment, seed: int) -> Tensor:
    """uint8 `[B, C, H, W]` to float32 `[B, C, H, W]` in [0, 1], changed as `settings` say.

    Every image gets its own draw; the same seed, settings and shape give the same result bit for bit.
    """
    random = Generator().manual_seed(seed)
    if settings.flip or settings.flip_vertical or settings.shift:
        images = _move(images, settings, random)
    x = to_float(images)
    if settings.rotate_degrees or settings.scale:
        x = _turn(x, settings, random)
    if settings.brightness:
        x = (x * _factor(len(x), settings.brightness, random)).clamp_(0, 1)
    if settings.contrast:
        mean = x.mean(dim=(1, 2, 3), keepdim=True)
        x = ((x - mean) * _factor(len(x), settings.contrast, random) + mean).clamp_(0, 1)
    if settings.cutout:
        x = _cut_out(x, settings.cutout, random)
    return x


def to_float(images: Tensor) -> Tensor:
    """uint8 0..255 to float32 0..1."""
    return images.to(torch.float32).div_(255)


def _move(images: Tensor, settings: Augment, random: Generator) -> Tensor:
    """Mirror and shift in one gather over the padded image, before the costlier float conversion."""
    batch, channels, height, width = images.shape
    pad = settings.shift
    rows = _positions(batch, height, pad, settings.flip_vertical, random)
    columns = _positions(batch, width, pad, settings.flip, random)
    flat = rows[:, :, None] * (width + 2 * pad) + columns[:, None, :]
    index = flat.view(batch, 1, -1).expand(batch, channels, -1)
    padded = functional.pad(images, (pad, pad, pad, pad)) if pad else images
    return padded.flatten(2).gather(2, index).view(batch, channels, height, width)


def _positions(batch: int, length: int, pad: int, mirror: bool, random: Generator) -> Tensor:
    """Which padded row (or column) each output one comes from, int64 `[B, length]`."""
    positions = torch.arange(length).expand(batch, length)
    if mirror:
        mirrored = torch.rand(batch, 1, generator=random) < 0.5
        positions = torch.where(mirrored, positions.flip(1), positions)
    if pad:
        positions = positions + torch.randint(0, 2 * pad + 1, (batch, 1), generator=random)
    return positions


def _turn(x: Tensor, settings: Augment, random: Generator) -> Tensor:
    """Rotate and zoom about the center, bilinear, black outside."""
    batch, _, height, width = x.shape
    angle = _uniform(batch, random) * math.radians(settings.rotate_degrees)
    zoom = torch.exp(_uniform(batch, random) * math.log1p(settings.scale))
    cosine, sine = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    # grid_sample works in [-1, 1] on both axes, so a rotation of a non-square image needs the aspect ratio.
    zero = torch.zeros(batch)
    theta = torch.stack(
        [cosine, -sine * (height / width), zero, sine * (width / height), cosine, zero], dim=1
    ).view(batch, 2, 3)
    grid = functional.affine_grid(theta, list(x.shape), align_corners=False)
    # Interpolation weights may sum to just above 1.
    return functional.grid_sample(x, grid, align_corners=False).clamp_(0, 1)


def _cut_out(x: Tensor, side: int, random: Generator) -> Tensor:
    """Blank one square per image whose center is anywhere in it (DeVries and Taylor 2017)."""
    batch, _, height, width = x.shape
    inside_rows = _interval(batch, height, side, random)
    inside_columns = _interval(batch, width, side, random)
    mask = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    return x.masked_fill(mask, _MID_GRAY)


def _interval(batch: int, length: int, side: int, random: Generator) -> Tensor:
    """Bool `[B, length]`: within a stretch of `side` around a random center."""
    start = torch.randint(0, length, (batch, 1), generator=random) - side // 2
    positions = torch.arange(length)
    return (positions >= start) & (positions < start + side)


def _uniform(batch: int, random: Generator) -> Tensor:
    """float32 `[B]` in [-1, 1)."""
    return torch.rand(batch, generator=random) * 2 - 1


def _factor(batch: int, strength: float, random: Generator) -> Tensor:
    return (1 + strength * _uniform(batch, random)).view(batch, 1, 1, 1)
