"""Distances between feature maps. Every value is a mean over the batch and over the compared elements.

Legend: B samples, C channels, H x W positions.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def mean_squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of (student - teacher)^2 over batch and elements; equal shapes [B, ...]."""
    return F.mse_loss(student, teacher)


def as_map(features: Tensor) -> Tensor:
    """[B, C] as [B, C, 1, 1]; a map [B, C, H, W] as it is."""
    return features[:, :, None, None] if features.dim() == 2 else features


def pooled_to_smaller(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """The two maps at the smaller of their sizes, the larger one average-pooled.

    [B, C, H, W] or [B, C] (a map of one position) each.
    """
    student, teacher = as_map(student), as_map(teacher)
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    return F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size)
