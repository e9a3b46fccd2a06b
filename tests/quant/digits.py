"""A small ResNet trained for a few seconds on scikit-learn's digits, for tests that need real weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from edgekd.networks.resnet_cifar import resnet_cifar

SIZE = 8
MEAN, STD = 0.3, 0.35


@dataclass(frozen=True)
class Digits:
    """images: float32 `[N, 1, 8, 8]`, normalized, at five shifts; labels: int64 `[N]`."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def digits() -> Digits:
    bunch = load_digits()
    pixels = torch.from_numpy(np.asarray(bunch.images, np.float32) / 16)[:, None]
    images = (pixels - MEAN) / STD
    labels = torch.from_numpy(np.asarray(bunch.target, np.int64))
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, test = order[:1200], order[1200:]
    return Digits(*_shifted(images[train], labels[train]), *_shifted(images[test], labels[test]))


def _shifted(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    shifts = [(0, 0), (0, 1), (1, 0), (-1, 0), (0, -1)]
    moved = [torch.roll(images, shift, dims=(2, 3)) for shift in shifts]
    return torch.cat(moved), labels.repeat(len(shifts))


def network(shortcut: str = "B") -> nn.Module:
    torch.manual_seed(1)
    return resnet_cifar(num_classes=10, in_channels=1, depth=8, width=0.5, shortcut=shortcut)  # type: ignore[arg-type]


def train(module: nn.Module, data: Digits, *, steps: int, learning_rate: float, seed: int = 0) -> list[float]:
    """Adam and cross-entropy on random batches of 64; returns the loss of every step."""
    generator = torch.Generator().manual_seed(seed)
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    losses = []
    module.train()
    for _ in range(steps):
        chosen = torch.randint(len(data.train_labels), (64,), generator=generator)
        loss = nn.functional.cross_entropy(module(data.train_images[chosen]), data.train_labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    module.eval()
    return losses


@torch.no_grad()
def logits_of(module: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([module(part) for part in images.split(256)])
