"""Seeded augmentation on tensors. What chance decides belongs to an image, never to its place in a batch.

`draw` decides for all images of a split at once; `augment` applies the rows of a batch. Everything computed
here is the same bit for bit whatever other images stand in the batch, so the sums are exact and functions
whose last bit may depend on a value's place in memory (`exp`, `cos`) are left to `draw`.

Shapes: N images of a split, B images of a batch, C channels, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as functional
from torch import Generator, Tensor

from edgekd.core import seed as seeds
from edgekd.data.augmentation import Augment

__all__ = ["Augment", "Draws", "augment", "draw", "rows_of", "to_float"]

Draws = Mapping[str, Tensor]
"""What chance decided: one column `[N]`, or `[B]` for a batch, for each thing to decide."""

_MID_GRAY = 0.5
_QUANTA = 2.0**24
"""Sums of whole numbers below this are exact in float64 whatever their order, for up to 2^29 values."""


def draw(settings: Augment, count: int, seed: int) -> Draws:
    """The draws for `count` images: a few bytes an image. Columns that `settings` do not need are left out.

    Each column comes from a stream of its own, so another setting changes no draw of the rest.
    """

    def uniform(name: str) -> Tensor:
        return torch.rand(count, generator=Generator().manual_seed(seeds.derive(seed, name)))

    return {
        **_draw_axis("rows", settings.flip_vertical, settings.shift, uniform),
        **_draw_axis("columns", settings.flip, settings.shift, uniform),
        **(_draw_turn(settings, uniform) if settings.rotate_degrees or settings.scale else {}),
        **_draw_factor("brightness", settings.brightness, uniform),
        **_draw_factor("contrast", settings.contrast, uniform),
        **({name: uniform(name) for name in ("cut_row", "cut_column")} if settings.cutout else {}),
    }


def rows_of(draws: Draws, indices: Tensor) -> Draws:
    """The draws of the images at `indices`, int64 `[B]`."""
    return {name: column[indices] for name, column in draws.items()}


def augment(images: Tensor, settings: Augment, draws: Draws) -> Tensor:
    """uint8 `[B, C, H, W]` to float32 `[B, C, H, W]` in [0, 1], changed as `settings` and `draws` say."""
    if settings.flip or settings.flip_vertical or settings.shift:
        images = _move(images, settings.shift, draws)
    x = to_float(images)
    if settings.rotate_degrees or settings.scale:
        x = _turn(x, draws)
    if settings.brightness:
        x = x.mul_(_each(draws["brightness"])).clamp_(0, 1)
    if settings.contrast:
        mean = _means(x)
        x = x.sub_(mean).mul_(_each(draws["contrast"])).add_(mean).clamp_(0, 1)
    if settings.cutout:
        x = _cut_out(x, settings.cutout, draws)
    return x


def to_float(images: Tensor) -> Tensor:
    """uint8 0..255 to float32 0..1."""
    return images.to(torch.float32).div_(255)


_Uniform = Callable[[str], Tensor]
"""A name -> float32 `[N]` in [0, 1)."""


def _draw_axis(axis: str, mirror: bool, shift: int, uniform: _Uniform) -> Draws:
    """Whether to mirror (bool) and where the image begins in the padded one (int64, 0..2 * shift)."""
    draws = {f"mirror_{axis}": uniform(f"mirror_{axis}") < 0.5} if mirror else {}
    if shift:
        draws[f"shift_{axis}"] = _below(2 * shift + 1, uniform(f"shift_{axis}"))
    return draws


def _draw_turn(settings: Augment, uniform: _Uniform) -> Draws:
    """Cosine and sine of the angle, over the zoom."""
    angle = _signed(uniform("angle")) * math.radians(settings.rotate_degrees)
    zoom = torch.exp(_signed(uniform("zoom")) * math.log1p(settings.scale))
    return {"cosine": torch.cos(angle) / zoom, "sine": torch.sin(angle) / zoom}


def _draw_factor(name: str, strength: float, uniform: _Uniform) -> Draws:
    return {name: 1 + strength * _signed(uniform(name))} if strength else {}


def _signed(uniform: Tensor) -> Tensor:
    """[0, 1) to [-1, 1)."""
    return uniform * 2 - 1


def _below(count: int, uniform: Tensor) -> Tensor:
    """[0, 1) to int64 0..count-1."""
    return (uniform.double() * count).long()


def _each(values: Tensor) -> Tensor:
    """`[B]` as `[B, 1, 1, 1]`."""
    return values.view(-1, 1, 1, 1)


def _move(images: Tensor, pad: int, draws: Draws) -> Tensor:
    """Mirror and shift in one gather over the padded image, before the costlier float conversion."""
    batch, channels, height, width = images.shape
    rows = _positions(batch, height, "rows", draws)
    columns = _positions(batch, width, "columns", draws)
    flat = rows[:, :, None] * (width + 2 * pad) + columns[:, None, :]
    index = flat.view(batch, 1, -1).expand(batch, channels, -1)
    padded = functional.pad(images, (pad, pad, pad, pad)) if pad else images
    return padded.flatten(2).gather(2, index).view(batch, channels, height, width)


def _positions(batch: int, length: int, axis: str, draws: Draws) -> Tensor:
    """Which padded row (or column) each output one comes from, int64 `[B, length]`."""
    positions = torch.arange(length).expand(batch, length)
    if (mirrored := draws.get(f"mirror_{axis}")) is not None:
        positions = torch.where(mirrored[:, None], positions.flip(1), positions)
    if (shift := draws.get(f"shift_{axis}")) is not None:
        positions = positions + shift[:, None]
    return positions


def _turn(x: Tensor, draws: Draws) -> Tensor:
    """Rotate and zoom about the center, bilinear, black outside."""
    _, _, height, width = x.shape
    cosine, sine = draws["cosine"][:, None, None], draws["sine"][:, None, None]
    # grid_sample works in [-1, 1] on both axes, so a rotation of a non-square image needs the aspect ratio.
    down, right = _centers(height)[:, None], _centers(width)
    grid = torch.stack(
        [
            cosine * right - sine * (height / width) * down,
            sine * (width / height) * right + cosine * down,
        ],
        dim=-1,
    )
    # Interpolation weights may sum to just above 1.
    return functional.grid_sample(x, grid, align_corners=False).clamp_(0, 1)


def _centers(length: int) -> Tensor:
    """Where the centers of `length` pixels lie in [-1, 1]."""
    return (2 * torch.arange(length) + 1) / length - 1


def _means(x: Tensor) -> Tensor:
    """The mean of each image, `[B, 1, 1, 1]`, of values in [0, 1] to 24 bits."""
    sums = (x * _QUANTA).round_().sum(dim=(1, 2, 3), keepdim=True, dtype=torch.float64)
    return (sums / (_QUANTA * x[0].numel())).float()


def _cut_out(x: Tensor, side: int, draws: Draws) -> Tensor:
    """Blank one square per image whose center is anywhere in it (DeVries and Taylor 2017)."""
    inside_rows = _interval(x.shape[2], side, draws["cut_row"])
    inside_columns = _interval(x.shape[3], side, draws["cut_column"])
    mask = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    return x.masked_fill_(mask, _MID_GRAY)


def _interval(length: int, side: int, uniform: Tensor) -> Tensor:
    """Bool `[B, length]`: within a stretch of `side` around a random center."""
    start = _below(length, uniform)[:, None] - side // 2
    positions = torch.arange(length)
    return (positions >= start) & (positions < start + side)
