"""Networks and data small enough that a whole training takes a second on one core."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgekd.data.batch import Batch
from edgekd.distill.participant import Participant
from edgekd.networks.initialize import init_weights
from edgekd.networks.tap import Tap, activation, head

NUM_CLASSES = 4
IMAGE_SHAPE = (3, 8, 8)
LABELS = tuple(f"class{number}" for number in range(NUM_CLASSES))


class TinyNet(nn.Module):
    """Three stages of convolution, batch norm and ReLU; taps stage1..3, their `:pre`, embedding, logits."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
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


def tiny_images(count: int, *, seed: int = 0, noise: float = 0.25) -> tuple[Tensor, Tensor]:
    """Noisy copies of one pattern per class: float32 `[N, C, H, W]` in [0, 1] and int64 labels `[N]`."""
    patterns = torch.rand(NUM_CLASSES, *IMAGE_SHAPE, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(NUM_CLASSES, (count,), generator=generator)
    noisy = patterns[labels] + noise * torch.randn(count, *IMAGE_SHAPE, generator=generator)
    return noisy.clamp(0, 1), labels


def tiny_batch(step: int, *, size: int = 16, views: tuple[str, ...] = ("x",)) -> Batch:
    """The batch of a step: other noise in every view, same labels."""
    images, labels = tiny_images(size, seed=1000 + step)
    indices = torch.arange(size) + size * step
    others = {view: (images + 0.05 * (n + 1)).clamp(0, 1) for n, view in enumerate(views[1:])}
    return Batch({views[0]: images, **others}, labels, indices)
