"""The relation kernels against NumPy float64 derivations, and the laws of the pairwise family."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from edgekd.distill.kernels import relate
from edgekd.distill.kernels.angles import angle_error
from edgekd.distill.methods.feature.at import attention
from edgekd.distill.methods.relation.cckd import correlation_error
from edgekd.distill.methods.relation.irg import edge_error
from edgekd.distill.methods.relation.mlkd import relative_error
from edgekd.distill.methods.relation.pkt import probability_divergence
from edgekd.distill.methods.relation.rkd_d import distance_error
from edgekd.distill.methods.relation.sp import similarity_error

Array = npt.NDArray[np.float64]
RNG = np.random.default_rng(2)
STUDENT, TEACHER = RNG.normal(size=(7, 4)) + 1, RNG.normal(size=(7, 6))

ERRORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sp": similarity_error,
    "rkd-d": distance_error,
    "rkd-a": angle_error,
    "cckd": lambda s, t: correlation_error(s, t, 0.4, 2),
    "pkt": lambda s, t: probability_divergence(s, t, diagonal=False),
    "pkt with diagonal": lambda s, t: probability_divergence(s, t, diagonal=True),
    "irg": edge_error,
    "mlkd": lambda s, t: relative_error(s, t, "norm"),
    "mlkd squared": lambda s, t: relative_error(s, t, "squared"),
}
every_error = pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS.keys())
RAW = ("mlkd", "mlkd squared")
"""These compare distances in the networks' own units."""


def tensor(rows: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(rows))


def value(error: Callable[[Tensor, Tensor], Tensor], student: Array, teacher: Array) -> float:
    return float(error(tensor(student), tensor(teacher)))


def differences(rows: Array) -> Array:
    return np.asarray(rows[:, None] - rows[None])


def lengths(vectors: Array) -> Array:
    return np.asarray(np.sqrt((vectors**2).sum(axis=-1)))


def unit(vectors: Array) -> Array:
    return np.asarray(vectors / lengths(vectors)[..., None])


# ---- Relations -----------------------------------------------------------------------------------


def test_distances_are_the_norms_of_the_differences() -> None:
    expected = lengths(differences(STUDENT))
    np.testing.assert_allclose(relate.distances(tensor(STUDENT)).numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(relate.squared_distances(tensor(STUDENT)).numpy(), expected**2, atol=1e-12)


def test_distances_survive_a_large_common_offset_in_single_precision() -> None:
    """Without centering, products of 1e6 would leave nothing of distances around 1."""
    rows = torch.from_numpy(STUDENT).float() + 1000
    exact = lengths(differences(rows.double().numpy()))
    np.testing.assert_allclose(relate.distances(rows).numpy(), exact, rtol=1e-4)


def test_equal_rows_are_at_distance_zero_without_gradient() -> None:
    rows = tensor(np.repeat(STUDENT[:2], [3, 1], axis=0)).requires_grad_(True)
    distances = relate.distances(rows)
    assert distances[:3, :3].eq(0).all()
    distances[:3, :3].sum().backward()  # type: ignore[no-untyped-call]
    assert rows.grad is not None and rows.grad.eq(0).all()


def test_cosines_are_of_unit_rows_and_a_zero_row_has_none() -> None:
    rows = np.vstack([STUDENT, np.zeros(4)])
    expected = np.zeros((8, 8))
    expected[:7, :7] = unit(STUDENT) @ unit(STUDENT).T
    np.testing.assert_allclose(relate.cosines(tensor(rows)).numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(relate.cosine_kernel(tensor(rows)).numpy(), (expected + 1) / 2, atol=1e-12)


def test_a_zero_row_gets_no_gradient_through_its_norm() -> None:
    rows = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    relate.unit_rows(rows).sum().backward()  # type: ignore[no-untyped-call]
    assert rows.grad is not None and rows.grad.eq(0).all()


@pytest.mark.parametrize("order", [0, 1, 2, 5])
def test_rbf_taylor_is_the_sum_of_powers_of_the_cosine(order: int) -> None:
    cosine, gamma = unit(STUDENT) @ unit(STUDENT).T, 0.4
    terms = [
        math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) * cosine**p for p in range(order + 1)
    ]
    actual = relate.rbf_taylor(tensor(STUDENT), gamma, order).numpy()
    np.testing.assert_allclose(actual, np.sum(terms, axis=0), atol=1e-14)


def test_rbf_taylor_tends_to_the_gaussian_kernel_of_unit_rows() -> None:
    expected = np.exp(-0.7 * lengths(differences(unit(STUDENT))) ** 2)
    np.testing.assert_allclose(relate.rbf_taylor(tensor(STUDENT), 0.7, 25).numpy(), expected, atol=1e-12)


def test_over_mean_leaves_the_diagonal_out_of_the_mean() -> None:
    matrix = lengths(differences(STUDENT))
    pairs = [matrix[i, j] for i in range(7) for j in range(7) if i != j]
    np.testing.assert_allclose(relate.over_mean(tensor(matrix)).numpy(), matrix / np.mean(pairs), atol=1e-14)


def test_normalizing_relations_that_are_all_zero_gives_zero() -> None:
    nothing = torch.zeros(3, 3)
    for normalize in (relate.over_mean, relate.over_max, relate.unit_rows):
        assert normalize(nothing).eq(0).all()


@pytest.mark.parametrize("diagonal", [True, False])
def test_row_kl_sums_over_the_others_and_averages_over_the_rows(diagonal: bool) -> None:
    student, teacher = (RNG.uniform(0.1, 1, size=(5, 5)) for _ in range(2))
    total = 0.0
    for i in range(5):
        others = [j for j in range(5) if diagonal or j != i]
        p = teacher[i, others] / teacher[i, others].sum()
        q = student[i, others] / student[i, others].sum()
        total += (p * np.log(p / q)).sum()
    actual = relate.row_kl(tensor(student), tensor(teacher), diagonal=diagonal)
    assert float(actual) == pytest.approx(total / 5, rel=1e-12)


def test_row_kl_stays_finite_where_a_kernel_is_zero() -> None:
    student, teacher = torch.eye(4, requires_grad=True), torch.ones(4, 4)
    error = relate.row_kl(student, teacher, diagonal=True)
    error.backward()  # type: ignore[no-untyped-call]
    assert error.isfinite() and student.grad is not None and student.grad.isfinite().all()


# ---- Sets of vectors: nst, at --------------------------------------------------------------------


def mmd(student: Array, teacher: Array) -> float:
    """E k(t, t') + E k(s, s') - 2 E k(s, t), k(v, w) = (v . w)^2, pair by pair."""

    def mean(rows: Array, others: Array) -> float:
        return float(np.mean([np.dot(v, w) ** 2 for v in rows for w in others]))

    return mean(teacher, teacher) + mean(student, student) - 2 * mean(student, teacher)


@pytest.mark.parametrize(("n", "m", "d"), [(3, 5, 20), (20, 30, 4), (6, 6, 6)])
def test_both_sides_of_the_mmd_agree_with_its_definition(n: int, m: int, d: int) -> None:
    """Kernels between channels = difference of the spatial Grams."""
    student, teacher = RNG.normal(size=(2, n, d)), RNG.normal(size=(2, m, d))
    expected = np.mean([mmd(s, t) for s, t in zip(student, teacher, strict=True)])
    sides = relate._mmd_of_moments, relate._mmd_of_kernels, relate.squared_kernel_mmd
    for side in sides:
        assert float(side(tensor(student), tensor(teacher))) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("n", "d", "side"), [(4, 100, "_mmd_of_kernels"), (100, 4, "_mmd_of_moments")])
def test_the_mmd_is_computed_on_its_small_side(
    n: int, d: int, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relate, side, lambda student, teacher: torch.tensor(-1.0))
    assert float(relate.squared_kernel_mmd(torch.ones(1, n, d), torch.ones(1, n, d))) == -1.0


def test_attention_is_the_diagonal_of_the_spatial_gram() -> None:
    maps = tensor(RNG.normal(size=(3, 5, 4, 2)))
    gram = relate.gram(relate.positions(maps))
    diagonal = gram.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(relate.unit_rows(diagonal), attention(maps, 2.0))


def test_cross_gram_is_the_mean_of_products_over_positions() -> None:
    first, second = RNG.normal(size=(2, 3, 4, 5)), RNG.normal(size=(2, 6, 4, 5))
    expected = np.zeros((2, 3, 6))
    for h in range(4):
        for w in range(5):
            expected += first[:, :, None, h, w] * second[:, None, :, h, w] / 20
    actual = relate.cross_gram(relate.channels(tensor(first)), relate.channels(tensor(second)))
    np.testing.assert_allclose(actual.numpy(), expected, atol=1e-14)


# ---- The laws of the pairwise family -------------------------------------------------------------


@every_error
def test_error_is_zero_at_identity_and_positive_elsewhere(error: Callable[[Tensor, Tensor], Tensor]) -> None:
    assert value(error, STUDENT, STUDENT) == pytest.approx(0.0, abs=1e-14)
    assert value(error, STUDENT, TEACHER) > 1e-5


@every_error
def test_error_ignores_a_rotation_of_either_embedding(error: Callable[[Tensor, Tensor], Tensor]) -> None:
    turned = [rows @ np.linalg.qr(RNG.normal(size=(d, d)))[0] for rows, d in ((STUDENT, 4), (TEACHER, 6))]
    assert value(error, turned[0], turned[1]) == pytest.approx(value(error, STUDENT, TEACHER), rel=1e-10)


@every_error
def test_error_ignores_the_order_of_the_samples(error: Callable[[Tensor, Tensor], Tensor]) -> None:
    order = RNG.permutation(7)
    expected = value(error, STUDENT, TEACHER)
    assert value(error, STUDENT[order], TEACHER[order]) == pytest.approx(expected, rel=1e-12)
    assert value(error, STUDENT[order], TEACHER) != pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", [name for name in ERRORS if name not in RAW])
def test_error_ignores_the_scale_of_the_teacher(name: str) -> None:
    expected = value(ERRORS[name], STUDENT, TEACHER)
    assert value(ERRORS[name], STUDENT, 3 * TEACHER) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", RAW)
def test_error_of_raw_distances_depends_on_the_scale_of_the_teacher(name: str) -> None:
    expected = value(ERRORS[name], STUDENT, TEACHER)
    assert value(ERRORS[name], STUDENT, 3 * TEACHER) != pytest.approx(expected, rel=0.1)


BATCHES = {
    "a sample twice": STUDENT[[0, 1, 2, 2, 3]],
    "all samples equal": np.tile(STUDENT[:1], (5, 1)),
    "a zero vector": np.vstack([STUDENT[:4], np.zeros((1, 4))]),
    "zero vectors only": np.zeros((5, 4)),
    "opposite vectors": np.vstack([STUDENT[:2], -STUDENT[:2], STUDENT[3:4]]),
}


@every_error
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES.keys())
def test_degenerate_batches_give_finite_values_and_bounded_gradients(
    error: Callable[[Tensor, Tensor], Tensor], batch: Array, dtype: torch.dtype
) -> None:
    student = tensor(batch).to(dtype).requires_grad_(True)
    for teacher in (TEACHER[:5], batch):
        result = error(student, tensor(teacher).to(dtype))
        (gradient,) = torch.autograd.grad(result, student)
        assert result.isfinite() and gradient.isfinite().all() and gradient.abs().max() < 1e3


@every_error
def test_gradient_passes_finite_differences(error: Callable[[Tensor, Tensor], Tensor]) -> None:
    student = tensor(STUDENT).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda s: error(s, tensor(TEACHER)), (student,))


def test_gradient_of_the_mmd_passes_finite_differences() -> None:
    student, teacher = (
        tensor(RNG.normal(size=(2, 3, 4))).requires_grad_(True),
        tensor(RNG.normal(size=(2, 5, 4))),
    )
    for side in (relate._mmd_of_moments, relate._mmd_of_kernels):
        assert torch.autograd.gradcheck(lambda s, side=side: side(s, teacher), (student,))
