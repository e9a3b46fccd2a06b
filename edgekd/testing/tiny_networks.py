"""Networks and data small enough that a whole training takes a second on one core."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgekd.core.seed import derive
from edgekd.data.batch import Batch
from edgekd.data.sampling import SAME_CLASS, Sampler, class_uniform, same_class
from edgekd.distill.participant import Participant
from edgekd.networks.initialize import init_weights
from edgekd.networks.tap import Tap, activation, head

NUM_CLASSES = 4
IMAGE_SHAPE = (3, 8, 8)
LABELS = tuple(f"class{number}" for number in range(NUM_CLASSES))
NUM_IMAGES = 64
"""Images of an epoch."""


class TinyNet(nn.Module):
    """Three stages of convolution, batch norm and ReLU; taps stage1..3, their `:pre`, embedding, logits."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.width = width
        channels = (IMAGE_SHAPE[0], width, 2 * width, 2 * width)
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels[i], channels[i + 1], 3, 1 if i == 0 else 2, 1, bias=False),
                nn.BatchNorm2d(channels[i + 1]),
                nn.ReLU(),
            )
            for i in range(3)
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(channels[3], NUM_CLASSES)
        self.classifier = "linear"
        self.taps: dict[str, Tap] = head("linear")
        for number in (1, 2, 3):
            self.taps |= activation(f"stage{number}", f"stages.{number - 1}.2")

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        logits: Tensor = self.linear(self.flatten(self.pool(x)))
        return logits


class Center(nn.Module):
    """[0, 1] to [-1, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x - 1


def tiny_participant(width: int = 4, *, seed: int = 0, name: str = "student") -> Participant:
    """A `TinyNet` with weights from (seed, name)."""
    with torch.random.fork_rng(devices=[]):
        module = TinyNet(width)
    init_weights(module, seed, name)
    return Participant(module, Center(), module.taps, LABELS)


# ---- Data ----------------------------------------------------------------------------------------

_AUGMENTATION = 0.1
"""Standard deviation of the noise that every view adds to its images."""


def tiny_images(count: int, *, seed: int = 0, noise: float = 0.25) -> tuple[Tensor, Tensor]:
    """Noisy copies of one pattern per class: float32 `[N, C, H, W]` in [0, 1] and int64 labels `[N]`."""
    patterns = torch.rand(NUM_CLASSES, *IMAGE_SHAPE, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(NUM_CLASSES, (count,), generator=generator)
    noisy = patterns[labels] + noise * torch.randn(count, *IMAGE_SHAPE, generator=generator)
    return noisy.clamp(0, 1), labels


@functools.cache
def _data_set(seed: int) -> tuple[Tensor, Tensor]:
    return tiny_images(NUM_IMAGES, seed=seed)


def tiny_batch(
    step: int, *, size: int = 16, views: Sequence[str] = ("x",), sampler: Sampler = "shuffled"
) -> Batch:
    """Batch `step` of endless epochs over `NUM_IMAGES` images, with noise of its own in every view.

    An index always names the same image and label. The view `SAME_CLASS` shows other images of the same
    classes.
    """
    images, labels = _data_set(1000)
    classes, seed = labels.numpy(), derive(0, "step", step)
    uniform = sampler == "class_uniform"
    indices = torch.from_numpy(class_uniform(classes, [size], seed)) if uniform else _order(step, size)
    shown = dict.fromkeys(views, indices)
    if SAME_CLASS in shown:
        shown[SAME_CLASS] = torch.from_numpy(same_class(classes, seed))[indices]
    shows = {view: _augmented(images[rows], step, view) for view, rows in shown.items()}
    return Batch(shows, labels[indices], indices)


@dataclass(frozen=True)
class TinyStream:
    """Endless batches of `size` images that `tiny_batch` never shows; their labels are -1."""

    views: tuple[str, ...] = ("x",)
    size: int = 12
    dtype: torch.dtype = torch.float32

    def batch(self, number: int) -> Batch:
        images, _ = _data_set(2000)
        rows = _order(number, self.size)
        shows = {view: _augmented(images[rows], number, "unlabeled", view) for view in self.views}
        unknown = torch.full_like(rows, -1)
        return Batch({view: shown.to(self.dtype) for view, shown in shows.items()}, unknown, rows)


def _drawing(*names: str | int) -> torch.Generator:
    return torch.Generator().manual_seed(derive(0, *names))


def _order(step: int, size: int) -> Tensor:
    """Rows `[size]` of shuffled epochs, one after the other."""
    places = torch.arange(step * size, (step + 1) * size)
    epochs = range(int(places[0]) // NUM_IMAGES, int(places[-1]) // NUM_IMAGES + 1)
    orders = torch.cat([torch.randperm(NUM_IMAGES, generator=_drawing("order", epoch)) for epoch in epochs])
    return orders[places - epochs[0] * NUM_IMAGES]


def _augmented(images: Tensor, step: int, *names: str) -> Tensor:
    noise = torch.randn(images.shape, generator=_drawing("view", step, *names))
    return (images + _AUGMENTATION * noise).clamp(0, 1)
