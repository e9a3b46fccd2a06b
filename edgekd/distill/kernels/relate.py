"""Relations inside a set of vectors, how they are normalized, and how two of them are compared.

    relation of what        relate                  normalize           compare
    sp       samples        gram                    unit_rows           mean squared error
    rkd-d    samples        distances               over_mean           huber
    rkd-a    samples        angles (angles.py)      -                   huber
    cckd     samples        rbf_taylor              -                   mean squared error
    pkt      samples        cosine_kernel           (row sums)          row_kl
    irg      samples        squared_distances       over_max            mean squared error
    mlkd     samples        distances               -                   root mean squared error
    nst      channels       (v . w)^2               unit_rows           squared_kernel_mmd
    fsp      two layers     cross_gram              over positions      mean squared error
    at       positions      diagonal of gram        unit_rows           mean squared error

Legend: n vectors of d numbers as rows, `[n, d]`; leading dimensions `...` are treated one by one. Student and
teacher share n, not d. Every value is a mean over the entries of the relation unless it says otherwise.
Nothing is detached here. Where a denominator is 0 (equal vectors, zero vectors) the quotient is 0 and so is
its gradient. Diagonals are exactly what the formula says: 0 for distances.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_SMALLEST_KERNEL = 1e-7
"""Keeps the logarithm of a probability finite; what the authors of PKT add."""


# ---- What is related -----------------------------------------------------------------------------


def samples(features: Tensor) -> Tensor:
    """[B, ...] -> [B, d]: one row per sample."""
    return features.flatten(1)


def channels(maps: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, C, H*W]: one row per channel."""
    return maps.flatten(2)


def positions(maps: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, H*W, C]: one row per position."""
    return maps.flatten(2).mT


# ---- Relations -----------------------------------------------------------------------------------


def gram(rows: Tensor) -> Tensor:
    """Inner products; [..., n, d] -> [..., n, n]."""
    return rows @ rows.mT


def cross_gram(rows: Tensor, others: Tensor) -> Tensor:
    """Mean over d of the products of two sets' entries; [..., n, d], [..., m, d] -> [..., n, m].

    With channels as rows this is the FSP matrix of two layers: Yim et al. 2017, equation 1.
    """
    return rows @ others.mT / rows.shape[-1]


def squared_distances(rows: Tensor) -> Tensor:
    """||v_i - v_j||^2; [..., n, d] -> [..., n, n], zero on the diagonal and for equal rows."""
    # Distances ignore the mean; without it the difference of products loses far fewer digits.
    products = gram(rows - rows.mean(dim=-2, keepdim=True))
    squares = products.diagonal(dim1=-2, dim2=-1)
    sums = squares.unsqueeze(-1) + squares.unsqueeze(-2)
    distances = sums - 2 * products
    noise = 8 * torch.finfo(rows.dtype).eps * sums
    own = torch.eye(rows.shape[-2], dtype=torch.bool, device=rows.device)
    return distances.masked_fill((distances <= noise) | own, 0)


def distances(rows: Tensor) -> Tensor:
    """||v_i - v_j||; [..., n, d] -> [..., n, n], zero and without gradient where rows are equal."""
    squared = squared_distances(rows)
    apart = squared > 0
    return torch.where(apart, torch.where(apart, squared, 1).sqrt(), 0)


def cosines(rows: Tensor) -> Tensor:
    """cos(v_i, v_j); [..., n, d] -> [..., n, n]; zero for a zero row."""
    return gram(unit_rows(rows))


def cosine_kernel(rows: Tensor) -> Tensor:
    """(cos(v_i, v_j) + 1) / 2 in [0, 1]; [..., n, d] -> [..., n, n]. Passalis & Tefas 2018, section 3."""
    return (cosines(rows) + 1) / 2


def rbf_taylor(rows: Tensor, gamma: float, order: int) -> Tensor:
    """exp(-gamma ||u_i - u_j||^2) of unit rows u, as a Taylor polynomial in cos(v_i, v_j).

    sum_{p=0..order} exp(-2 gamma) (2 gamma)^p / p! cos^p; [..., n, d] -> [..., n, n]. Peng et al. 2019,
    section 3.
    """
    cosine = cosines(rows)
    total = torch.zeros_like(cosine)
    for power in reversed(range(order + 1)):
        factor = math.exp(-2 * gamma) * (2 * gamma) ** power / math.factorial(power)
        total = total * cosine + factor
    return total


# ---- Normalizations ------------------------------------------------------------------------------


def unit_rows(rows: Tensor) -> Tensor:
    """Every row divided by its L2 norm; a zero row stays zero and gets no gradient."""
    lengths = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    return _quotient(rows, lengths)


def over_mean(relations: Tensor) -> Tensor:
    """Divided by the mean of the entries off the diagonal; [n, n], n > 1."""
    count = relations.shape[-1]
    pairs = relations.sum() - relations.diagonal().sum()
    return _quotient(relations, pairs / (count * (count - 1)))


def over_max(relations: Tensor) -> Tensor:
    """Divided by the largest entry."""
    return _quotient(relations, relations.amax())


def _quotient(value: Tensor, divisor: Tensor) -> Tensor:
    """value / divisor, and 0 where the divisor is 0."""
    positive = divisor > 0
    return torch.where(positive, value / torch.where(positive, divisor, 1), 0)


# ---- Comparisons ---------------------------------------------------------------------------------


def huber(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of e^2 / 2 where |e| <= 1 and |e| - 1/2 elsewhere, e = student - teacher."""
    return F.smooth_l1_loss(student, teacher)


def root_mean_squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """||student - teacher||_F / sqrt(entries); 0 without gradient where they are equal."""
    squared = (student - teacher).pow(2).mean()
    differ = squared > 0
    return torch.where(differ, torch.where(differ, squared, 1).sqrt(), 0)


def row_kl(student: Tensor, teacher: Tensor, *, diagonal: bool) -> Tensor:
    """KL(P_t || P_s), P_ij = K_ij / sum_k K_ik: sum over j, mean over i; kernels [n, n], not negative.

    Without `diagonal` j and k run over the others only. Passalis & Tefas 2018, section 3.
    """
    log_student, log_teacher = _log_probabilities(student, diagonal), _log_probabilities(teacher, diagonal)
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)


def _log_probabilities(kernel: Tensor, diagonal: bool) -> Tensor:
    """[n, n] -> [n, n], or [n, n-1] without the diagonal."""
    kernel = kernel.clamp(min=_SMALLEST_KERNEL)
    if not diagonal:
        count = len(kernel)
        others = ~torch.eye(count, dtype=torch.bool, device=kernel.device)
        kernel = kernel[others].view(count, count - 1)
    return kernel.log() - kernel.sum(dim=1, keepdim=True).log()


def squared_kernel_mmd(student: Tensor, teacher: Tensor) -> Tensor:
    """MMD^2 of two sets of vectors under k(v, w) = (v . w)^2, mean over the leading dimensions.

    student: [..., n, d], teacher: [..., m, d]. Equals ||M_s - M_t||_F^2 with the second moments
    M = sum_i v_i v_i^T / n of size d x d, since (v . w)^2 = <v v^T, w w^T>; computed on that side where
    n, m are many, else from kernels between the vectors. Huang & Wang 2017 (arXiv 1707.01219), section 3.
    """
    (n, d), m = student.shape[-2:], teacher.shape[-2]
    if d * (n + m) <= n * n + m * m + n * m:
        return _mmd_of_moments(student, teacher)
    return _mmd_of_kernels(student, teacher)


def _mmd_of_moments(student: Tensor, teacher: Tensor) -> Tensor:
    difference = cross_gram(student.mT, student.mT) - cross_gram(teacher.mT, teacher.mT)
    return difference.pow(2).sum(dim=(-2, -1)).mean()


def _mmd_of_kernels(student: Tensor, teacher: Tensor) -> Tensor:
    def kernel(rows: Tensor, others: Tensor) -> Tensor:
        return (rows @ others.mT).pow(2).mean(dim=(-2, -1))

    own = kernel(student, student) + kernel(teacher, teacher)
    return (own - 2 * kernel(student, teacher)).mean()
