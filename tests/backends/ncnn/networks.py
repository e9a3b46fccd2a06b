"""Networks of the ncnn tests."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edgekd.backends.ncnn import runtime
from edgekd.backends.ncnn.export import export
from edgekd.backends.source import Source
from edgekd.networks.resnet_cifar import resnet_cifar
from edgekd.testing.tiny_networks import IMAGE_SHAPE, TinyNet

# torch's compiler, which torch.export imports, sets this; set before, no test seems to do it.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/torchinductor_tests")


def tiny(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return TinyNet().eval()


def shortcuts_by_steps() -> nn.Module:
    """A CIFAR ResNet, whose shortcuts take every second row and column, with settled statistics."""
    torch.manual_seed(0)
    return settled(resnet_cifar(num_classes=4, in_channels=3, depth=8, width=0.25), torch.rand(16, 3, 12, 12))


@torch.no_grad()
def settled(module: nn.Module, images: Tensor) -> nn.Module:
    """`module` with batch-norm statistics of `images`, in evaluation mode."""
    module.train()
    for _ in range(3):
        module(images)
    return module.eval()


def written(folder: Path, module: nn.Module, shape: tuple[int, int, int] = IMAGE_SHAPE) -> dict[str, Any]:
    """Facts of the pair `net.ncnn.param` and `net.ncnn.bin` in `folder`."""
    return export(Source(module, shape, metadata={"labels": '["ä"]'}), folder / "net.ncnn.param")


def largest_error(path: Path, module: nn.Module, images: Tensor) -> float:
    """Largest difference to torch, as a share of the largest logit."""
    graph = runtime.load(str(path))
    actual = np.concatenate([graph.run(images[i : i + 1].numpy()) for i in range(len(images))])
    with torch.no_grad():
        expected = module(images).numpy()
    return float(np.abs(actual - expected).max() / np.abs(expected).max())
