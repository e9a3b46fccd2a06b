"""What makes images good stand-ins for the data that a network was trained on. Every value is a mean over the
batch but those of a batch's statistics.

Legend: B images, C classes, N x H x W channels, rows and columns, K statistics of all batch norms together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def own_answer(logits: Tensor) -> Tensor:
    """Cross-entropy of logits [B, C] with their own largest class (Chen et al. 2019, the one-hot loss)."""
    return F.cross_entropy(logits, logits.detach().argmax(dim=1))


def negative_activation(features: Tensor) -> Tensor:
    """-mean |features| over batch and elements, any shape (Chen et al. 2019; theirs is a sum)."""
    return -features.abs().mean()


def negative_entropy(logits: Tensor) -> Tensor:
    """sum_c q_c ln q_c of q = mean over the batch of softmax(logits [B, C]): -ln C where classes are even.

    Chen et al. 2019, information entropy (without their 1/C). A statistic of the whole batch.
    """
    log_mean = F.log_softmax(logits, dim=1).logsumexp(dim=0) - torch.log(logits.new_tensor(len(logits)))
    return (log_mean.exp() * log_mean).sum()


def total_variation(images: Tensor) -> Tensor:
    """Sum over four neighbors of the L2 norm of an image's differences to them, mean over the batch.

    images: [B, N, H, W]. The neighbors are right, below and the two diagonals (Yin et al. 2020, R_prior);
    the authors take one norm over the whole batch, sqrt(B) times this where images are alike.
    """
    across = images[:, :, :, :-1] - images[:, :, :, 1:]
    down = images[:, :, :-1, :] - images[:, :, 1:, :]
    rising = images[:, :, 1:, :-1] - images[:, :, :-1, 1:]
    falling = images[:, :, :-1, :-1] - images[:, :, 1:, 1:]
    return sum((_norms(each).mean() for each in (down, rising, falling)), start=_norms(across).mean())


def image_norm(images: Tensor) -> Tensor:
    """L2 norm of an image, mean over the batch; images: [B, ...] (Yin et al. 2020, R_prior)."""
    return _norms(images).mean()


def _norms(values: Tensor) -> Tensor:
    """[B] L2 norms."""
    norms: Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1)
    return norms


def statistics_mismatch(moments: Tensor, variances: Tensor, sizes: Sequence[int]) -> Tensor:
    """sum_l ||mean_l - running mean_l|| + ||var_l - running var_l|| over the batch norms l.

    moments: [B, 2 K], per image first the K means over positions of (input - running mean), then those of its
    square; variances: [K] running variances; sizes: channels of each batch norm, summing to K. Means and
    (biased) variances are those of the whole batch. Yin et al. 2020, R_feature.
    """
    first, second = moments.mean(dim=0).chunk(2)
    deviations = torch.stack([first, second - first.square() - variances])
    parts = torch.split(deviations, list(sizes), dim=1)
    norms: list[Tensor] = [torch.linalg.vector_norm(part, dim=1).sum() for part in parts]
    return torch.stack(norms).sum()
