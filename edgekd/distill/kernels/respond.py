"""Divergences between a student's logits and a target. Every value is a mean over the batch.

Legend: B samples, C classes. Targets are not detached here: whether gradient flows into one is the term's
decision.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def kl(student_logits: Tensor, target: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 KL(target || softmax(student_logits / T)): sum over classes, mean over the batch.

    student_logits: [B, C]; target: [B, C] probabilities, softened by whoever made them. The factor T^2 keeps
    the size of the gradient when T changes (Hinton et al. 2015, section 2).
    """
    log_student = F.log_softmax(student_logits / temperature, dim=1)
    return F.kl_div(log_student, target, reduction="batchmean") * temperature**2


def soft_cross_entropy(student_logits: Tensor, target: Tensor, temperature: float = 1.0) -> Tensor:
    """T^2 times -sum_c target_c log softmax(student_logits / T)_c: sum over classes, mean over the batch.

    student_logits, target: [B, C]. Equals `kl` plus T^2 times the target's entropy; same gradient.
    """
    log_student = F.log_softmax(student_logits / temperature, dim=1)
    return -(target * log_student).sum(dim=1).mean() * temperature**2


def squared_error(student_logits: Tensor, target_logits: Tensor) -> Tensor:
    """1/2 ||student_logits - target_logits||^2: sum over classes, mean over the batch (Ba & Caruana 2014).

    Both [B, C].
    """
    return 0.5 * (student_logits - target_logits).pow(2).sum(dim=1).mean()


def correlation_distance(student: Tensor, target: Tensor, dim: int) -> Tensor:
    """1 - r, r the mean of the Pearson correlations along `dim` (Huang et al. 2022, equations 6 to 9).

    Both [B, C]; `dim` 1 correlates the classes of a sample, 0 the samples of a class. Where one side is
    constant r is 0, with a finite gradient.
    """
    student = student - student.mean(dim, keepdim=True)
    target = target - target.mean(dim, keepdim=True)
    return 1.0 - F.cosine_similarity(student, target, dim=dim).mean()
