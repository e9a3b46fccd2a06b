"""The angle kernel, whose backward pass is our own, against NumPy triplets and the plain torch form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from edgekd.distill.kernels import angles
from edgekd.distill.kernels.angles import angle_error

RNG = np.random.default_rng(3)


def plain(student: Tensor, teacher: Tensor) -> Tensor:
    """All b^3 angles at once."""

    def cosines(rows: Tensor) -> Tensor:
        directions = F.normalize(rows[None] - rows[:, None], dim=2)
        return directions @ directions.mT

    return F.smooth_l1_loss(cosines(student), cosines(teacher))


def rows(b: int, d: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(RNG.normal(size=(b, d)) * 2).to(dtype)


def test_value_is_the_mean_huber_error_over_all_triplets() -> None:
    student, teacher = RNG.normal(size=(5, 3)), RNG.normal(size=(5, 8))
    total = 0.0
    for i in range(5):
        for j in range(5):
            for k in range(5):
                cosines = []
                for embedding in (student, teacher):
                    one, other = embedding[j] - embedding[i], embedding[k] - embedding[i]
                    norms = np.linalg.norm(one) * np.linalg.norm(other)
                    cosines.append(one @ other / norms if norms > 0 else 0.0)
                error = abs(cosines[0] - cosines[1])
                total += error**2 / 2 if error <= 1 else error - 0.5
    actual = angle_error(torch.from_numpy(student), torch.from_numpy(teacher))
    assert float(actual) == pytest.approx(total / 125, rel=1e-12)


@pytest.mark.parametrize(("b", "d_s", "d_t"), [(12, 5, 40), (12, 40, 5), (6, 6, 6), (33, 16, 24)])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_value_and_gradient_are_those_of_the_plain_form(
    b: int, d_s: int, d_t: int, dtype: torch.dtype, near: float
) -> None:
    student, teacher = rows(b, d_s, dtype).requires_grad_(True), rows(b, d_t, dtype)
    values = [form(student, teacher) for form in (angle_error, plain)]
    ours, expected = (torch.autograd.grad(each, student)[0] for each in values)
    assert float(values[0].detach()) == pytest.approx(float(values[1].detach()), abs=near)
    torch.testing.assert_close(ours, expected, rtol=1e4 * near, atol=near)


@pytest.mark.parametrize("elements", [1, 200, 1 << 20])
def test_the_number_of_anchors_at_a_time_changes_nothing(
    elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, teacher = rows(9, 4).requires_grad_(True), rows(9, 7)
    expected = torch.autograd.grad(angle_error(student, teacher), student)[0]
    monkeypatch.setattr(angles, "_CHUNK_ELEMENTS", elements)
    torch.testing.assert_close(torch.autograd.grad(angle_error(student, teacher), student)[0], expected)


@pytest.mark.parametrize("d", [3, 9])
def test_gradient_passes_finite_differences(d: int) -> None:
    student, teacher = rows(5, d).requires_grad_(True), rows(5, 6)
    assert torch.autograd.gradcheck(lambda s: 3 * angle_error(s, teacher), (student,))


@pytest.mark.parametrize("d", [3, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_repeated_sample_spans_no_angle(d: int, dtype: torch.dtype) -> None:
    """With more dimensions than samples too, where the rows pass through a rotation that rounds."""
    student = rows(5, d, dtype)[[0, 1, 2, 2, 3, 4]].requires_grad_(True)
    teacher = rows(6, 4, dtype)
    ours = angle_error(student, teacher)
    (gradient,) = torch.autograd.grad(ours, student)
    assert gradient.isfinite().all() and gradient.abs().max() < 1.0
    # The plain form has differences of exactly 0, which `normalize` leaves as they are.
    expected = plain(student.detach().double(), teacher.double())
    assert float(ours.detach()) == pytest.approx(float(expected), abs=1e-6)


class _LargestTensor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The most elements of any tensor made inside."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = function(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.elements = max([self.elements, *sizes])
        return result


def test_no_tensor_of_b_cubed_or_b_squared_times_d_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(angles, "_CHUNK_ELEMENTS", 4096)
    student, teacher = rows(32, 128).requires_grad_(True), rows(32, 64)
    with _LargestTensor() as largest:  # type: ignore[no-untyped-call]
        angle_error(student, teacher).backward()  # type: ignore[no-untyped-call]
    assert largest.elements <= max(4096, 32 * 128)
    with _LargestTensor() as largest:  # type: ignore[no-untyped-call]
        plain(student, teacher)
    assert largest.elements == 32 * 32 * 128
