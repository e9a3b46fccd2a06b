"""Scoring a network on arrays of images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from edgekd.core.errors import DataError


def predict_logits(
    module: nn.Module,
    normalize: Callable[[Tensor], Tensor],
    images: npt.NDArray[np.uint8],
    *,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
) -> npt.NDArray[np.float32]:
    """Logits `[N, num_classes]` for uint8 images `[N, H, W, C]`, in float32 and evaluation mode.

    `normalize` takes float batches `[B, C, H, W]` in [0, 1] (`networks.resize.Normalize`). The modes that the
    module and its parts were in return afterwards. Raises `DataError` for an array of another shape or type.
    """
    if images.ndim != 4 or images.dtype != np.uint8 or len(images) == 0:
        raise DataError(f"needs uint8 images [N, H, W, C], got {images.dtype} {list(images.shape)}")
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.inference_mode():
            batches = [
                module(normalize(_as_batch(images[start : start + batch_size], device))).float().cpu()
                for start in range(0, len(images), batch_size)
            ]
    finally:
        for part, training in modes:
            part.training = training
    return np.asarray(torch.cat(batches).numpy(), np.float32)


def accuracy(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """Share in [0, 1] of rows whose largest logit is the label's; logits `[N, classes]`, labels `[N]`."""
    if len(logits) != len(labels) or len(labels) == 0:
        raise DataError(f"{len(logits)} predictions and {len(labels)} labels")
    return float((logits.argmax(axis=1) == labels).mean())


def _as_batch(images: npt.NDArray[np.uint8], device: torch.device | str) -> Tensor:
    # The view keeps the bytes in [N, H, W, C] order, which is channels-last: no copy on the CPU.
    batch = torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2)
    return batch.to(torch.float32) / 255
