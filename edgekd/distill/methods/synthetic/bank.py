"""A bank of images that are trained like weights, and the batches that are drawn from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from edgekd.data.batch import Batch

if TYPE_CHECKING:
    from edgekd.distill.context import Context

CENTER, SPREAD = 0.5, 0.25
"""A pixel in [0, 1] is CENTER + SPREAD x a number of about unit variance, as natural images have it."""


class Bank(nn.Module):
    """`num_blocks` blocks of `block_size` images (N, H, W), each with a class of its own, in turn.

    Every block is one parameter, so an optimizer leaves the blocks alone that an update does not use. Images
    start as normal noise.
    """

    def __init__(self, num_blocks: int, block_size: int, shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.blocks = nn.ParameterList(torch.randn(block_size, *shape) for _ in range(num_blocks))
        self.register_buffer("classes", torch.arange(block_size) % num_classes)

    def __len__(self) -> int:
        """Images of all blocks."""
        return len(self.blocks) * len(self.blocks[0])

    def block(self, number: int) -> tuple[Tensor, Tensor]:
        """Images [block_size, N, H, W] in [0, 1] and their classes, int64."""
        return _pixels(self.blocks[number]), cast(Tensor, self.classes)

    def rows(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The images of int64 `rows` over all blocks [B, N, H, W] in [0, 1], and their classes, int64 [B]."""
        images = torch.cat(tuple(self.blocks))[rows]
        return _pixels(images), cast(Tensor, self.classes)[rows % len(self.blocks[0])]


def _pixels(values: Tensor) -> Tensor:
    return (CENTER + SPREAD * values).clamp(0, 1)


def jittered(images: Tensor, shift: float, generator: torch.Generator) -> Tensor:
    """All images [B, N, H, W] rolled alike and, half the time, mirrored.

    shift: the farthest they are rolled either way, as a part of their height and width.
    """
    farthest = [int(shift * length) for length in images.shape[2:]]
    offsets = [int(torch.randint(-far, far + 1, (), generator=generator)) for far in farthest]
    moved = images.roll(offsets, dims=(2, 3))
    mirrored = bool(torch.rand((), generator=generator) < 0.5)
    return moved.flip(3) if mirrored else moved


@dataclass(frozen=True)
class _FromBank:
    """Jittered images of the bank `role`; nothing of the loop's batch but its size and device."""

    role: str
    shift: float
    outputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    def supplies(self, views: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
        return {}

    def bank(self, context: Context) -> Bank:
        return cast(Bank, context.module(self.role))

    def batch(self, context: Context, images: Tensor, classes: Tensor) -> Batch:
        images = jittered(images, self.shift, context.generator("source", self.role, "jitter"))
        return Batch({"x": images}, classes, torch.full_like(classes, -1))


@dataclass(frozen=True)
class Blocks(_FromBank):
    """One block after another, whole, with gradient: for the turn that trains the bank."""

    def draw(self, context: Context, given: Batch) -> Batch:
        bank = self.bank(context)
        images, classes = bank.block(context.progress.step % len(bank.blocks))
        return self.batch(context, context.world.rows(images), context.world.rows(classes))


@dataclass(frozen=True)
class Rows(_FromBank):
    """As many different images as the loop's batch has, or all: for those who learn from the bank."""

    def draw(self, context: Context, given: Batch) -> Batch:
        bank, world = self.bank(context), context.world
        order = torch.randperm(len(bank), generator=context.generator("source", self.role, "rows"))
        rows = world.rows(order[: len(given.labels) * world.size])
        with torch.no_grad():
            return self.batch(context, *bank.rows(rows.to(given.labels.device)))
