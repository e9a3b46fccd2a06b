"""Contrastive losses on scores <g_t, g_s> / tau of embeddings. Every value is a mean over the anchors.

Legend: B anchors, each with one positive; n negatives.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def noise_contrastive(
    positives: Tensor, negatives: Tensor, counted: Tensor, *, num_negatives: int, log_constant: Tensor
) -> Tensor:
    """-log h(positive) - N E[log(1 - h(negative))], h = e^score / (e^score + N c): mean over the anchors.

    positives: scores [B]; negatives: [B, n], those with `counted` (bool [B, n]) are averaged in place of the
    expectation, so n need not be N. log_constant: log c, c = Z / M in the notation of Tian et al. 2020 (arXiv
    1910.10699), equation 18 with its constant Z for M images. An anchor without a counted negative has the
    first summand only.
    """
    offset = log_constant + math.log(num_negatives)
    # -log h = softplus(offset - score) and -log(1 - h) = softplus(score - offset).
    repelled = F.softplus((negatives - offset).masked_fill(~counted, -math.inf)).sum(dim=1)
    repelled = repelled / counted.sum(dim=1).clamp(min=1)
    return (F.softplus(offset - positives) + num_negatives * repelled).mean()


def log_mean_exp(scores: Tensor) -> Tensor:
    """log of the mean of e^score over all entries."""
    return scores.flatten().logsumexp(dim=0) - math.log(scores.numel())


def info_nce(scores: Tensor, same: Tensor) -> Tensor:
    """-log softmax(scores)_ii by rows plus the same by columns; scores [B, B], mean over the anchors.

    same: bool [B, B]; its entries off the diagonal count as no negatives. van den Oord et al. 2018, for both
    of two networks as anchor.
    """
    own = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    scores = scores.masked_fill(same & ~own, -math.inf)
    target = torch.arange(len(scores), device=scores.device)
    return F.cross_entropy(scores, target) + F.cross_entropy(scores.mT, target)
