"""Small networks of the ExecuTorch tests, in float32 and with our quantizers."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgekd.backends.source import Source
from edgekd.networks.resnet_cifar import resnet_cifar
from edgekd.quant.prepare import calibrate, finalize, prepare
from edgekd.quant.settings import QuantSettings

# torch's compiler, which torch.export imports, sets this; set before, no test seems to do it.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{tempfile.gettempdir()}/torchinductor_tests")

SHAPE = (3, 12, 12)


@dataclass(frozen=True)
class Exported:
    """A file, the facts about it, and the module that it must compute."""

    path: Path
    facts: dict[str, Any]
    module: nn.Module


@torch.no_grad()
def settled(module: nn.Module, images: Tensor) -> nn.Module:
    """`module` with batch-norm statistics of `images`, in evaluation mode."""
    module.train()
    for _ in range(3):
        module(images)
    return module.eval()


def network() -> nn.Module:
    """A ResNet-8, whose shortcuts are slices with steps; the same weights each time."""
    torch.manual_seed(0)
    return settled(resnet_cifar(num_classes=4, in_channels=3, depth=8, width=0.25), images())


def vision_transformer() -> nn.Module:
    """Two layers, and a head whose weights are not the zeros that torchvision starts with."""
    from torchvision.models import VisionTransformer

    made: nn.Module = VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5
    )
    nn.init.normal_(made.get_submodule("heads.head").weight)  # type: ignore[arg-type]
    return made


def images(count: int = 64) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(3))


def trained_int8(module: nn.Module, examples: Tensor) -> nn.Module:
    """`module` with our quantizers, calibrated: what int8 training starts from."""
    quantized = prepare(module, QuantSettings(), examples)
    calibrate(quantized, [examples])
    finalize(quantized)
    return quantized


def write(folder: Path, source: Source) -> Exported:
    from edgekd.backends.executorch.export import export

    path = folder / "network.pte"
    return Exported(path, export(source, path), source.module)
