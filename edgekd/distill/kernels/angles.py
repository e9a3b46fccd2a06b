"""The angle-wise relation of Park et al. 2019 without its [b, b, d] and [b, b, b] tensors.

Legend: b samples, d dimensions of the rows (student and teacher may differ in d).

The plain form (differences, `normalize`, `bmm`, `smooth_l1_loss`) keeps several tensors of b^2 d and of b^3
numbers for the backward pass. Here a few anchors are taken at a time and their gradient is added up in the
forward pass; rows longer than b are first rotated into b dimensions, which no angle notices. Forward and
backward, float32, one thread on an AMD EPYC that others shared (best of three), and additional peak memory:

    b    d_s  d_t    plain           here
    128   64    64    81 ms  88 MB    50 ms   4 MB
    256   64    64   523 ms 354 MB   241 ms   4 MB
    128  512  2048   905 ms 297 MB    75 ms  10 MB
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_CHUNK_ELEMENTS = 1 << 16
"""Elements of the largest tensor made for one group of anchors: the group stays in a core's cache."""


def angle_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over all b^3 (i, j, k) of Huber(psi_s - psi_t), psi(i, j, k) = cos of the angle j-i-k at sample i.

    student: [b, d_s], teacher: [b, d_t]; the gradient goes to the student only. psi is 0, without gradient,
    where j or k coincides with i. Park et al. 2019 (arXiv 1904.05068), section 3.2.2, as a mean.
    """
    value: Tensor = _AngleError.apply(student, teacher)
    return value


class _AngleError(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor) -> Tensor:
        value, gradient = _value_and_gradient(_Rows(student), _Rows(teacher))
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.saved_tensors[0], None


class _Rows:
    """Samples as rows of at most b numbers, with the distance below which two of them coincide."""

    def __init__(self, rows: Tensor) -> None:
        self.basis = None
        longest = torch.linalg.vector_norm(rows, dim=1).max()
        self.floor = 8 * torch.finfo(rows.dtype).eps * longest
        rows = rows - rows.mean(dim=0)
        if rows.shape[1] > rows.shape[0]:
            self.basis = torch.linalg.qr(rows.mT).Q
            rows = rows @ self.basis
        self.rows = rows

    def restored(self, gradient: Tensor) -> Tensor:
        """A gradient of the rows as one of what they were made from; angles ignore the removed mean."""
        return gradient if self.basis is None else gradient @ self.basis.mT

    def directions(self, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors [k, b, d] from k anchors to all rows, and the inverse distances [k, b, 1]."""
        differences = self.rows - self.rows[anchors, None]
        lengths = torch.linalg.vector_norm(differences, dim=2, keepdim=True)
        inverse = lengths.reciprocal().masked_fill(lengths <= self.floor, 0)
        return differences * inverse, inverse


def _value_and_gradient(student: _Rows, teacher: _Rows) -> tuple[Tensor, Tensor]:
    rows = student.rows
    count, gradient, total = len(rows), torch.zeros_like(rows), rows.new_zeros(())
    every = torch.arange(count, device=rows.device)
    for anchors in torch.split(every, _anchors_at_once(student, teacher)):
        directions, inverse = student.directions(anchors)
        others, _ = teacher.directions(anchors)
        error = torch.baddbmm(others @ others.mT, directions, directions.mT, beta=-1)
        slope = error.clamp(-1, 1)
        # Huber(e) = s (e - s/2) with its slope s = clamp(e, -1, 1).
        total += (slope * (error - slope / 2)).sum()
        pull = 2 * (slope @ directions)
        pull = (pull - directions * (pull * directions).sum(dim=2, keepdim=True)) * inverse
        gradient += pull.sum(dim=0)
        gradient[anchors] -= pull.sum(dim=1)
    return total / count**3, student.restored(gradient / count**3)


def _anchors_at_once(student: _Rows, teacher: _Rows) -> int:
    count = len(student.rows)
    widest = max(count, student.rows.shape[1], teacher.rows.shape[1])
    return max(1, _CHUNK_ELEMENTS // (count * widest))
