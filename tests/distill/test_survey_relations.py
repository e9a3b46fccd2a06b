"""The surveys' equations of relations (gou 11, 12: Gou et al. 2021) and distances (hu 2, 3: Hu et al. 2022),
held by the kernels that relation methods are made of.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from edgekd.distill.kernels.angles import angle_error
from edgekd.distill.kernels.regress import mean_squared_error
from edgekd.distill.kernels.relate import (
    channels,
    cosine_kernel,
    cross_gram,
    distances,
    gram,
    huber,
    over_max,
    over_mean,
    rbf_taylor,
    root_mean_squared_error,
    row_kl,
    squared_distances,
    unit_rows,
)
from edgekd.distill.kernels.respond import squared_error

B, C = 64, 10
RNG = np.random.default_rng(2022)
TEACHER, STUDENT = 3 * RNG.standard_normal((B, C)), 3 * RNG.standard_normal((B, C))


# ---- gou 11, 12 ------------------------------------------------------------------------------------


def maps(count: int, size: int = 5) -> Tensor:
    return torch.from_numpy(RNG.standard_normal((3, count, size, size)))


def test_gou_11_the_relation_of_a_layer_with_itself_is_symmetric_and_positive() -> None:
    flow = cross_gram(channels(f := maps(6)), channels(f))
    torch.testing.assert_close(flow, flow.mT)
    assert float(torch.linalg.eigvalsh(flow).min()) > -1e-12


def test_gou_11_the_relation_of_two_layers_is_channels_by_channels_at_any_size() -> None:
    for size in (3, 7):
        one, other = maps(4, size), maps(6, size)
        flow = cross_gram(channels(one), channels(other)).numpy()
        expected = np.einsum("bihw,bjhw->bij", one.numpy(), other.numpy()) / size**2
        np.testing.assert_allclose(flow, expected, atol=1e-14)


def test_gou_11_does_not_know_where_a_pixel_stands() -> None:
    one, other = channels(maps(4)), channels(maps(6))
    order = torch.from_numpy(RNG.permutation(25))
    torch.testing.assert_close(cross_gram(one, other), cross_gram(one[..., order], other[..., order]))


RELATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sp": lambda s, t: mean_squared_error(unit_rows(gram(s)), unit_rows(gram(t))),
    "rkd-d": lambda s, t: huber(over_mean(distances(s)), over_mean(distances(t))),
    "rkd-a": angle_error,
    "cckd": lambda s, t: mean_squared_error(rbf_taylor(s, 0.4, 2), rbf_taylor(t, 0.4, 2)),
    "pkt": lambda s, t: row_kl(cosine_kernel(s), cosine_kernel(t), diagonal=False),
    "irg": lambda s, t: mean_squared_error(over_max(squared_distances(s)), over_max(squared_distances(t))),
    "mlkd": lambda s, t: root_mean_squared_error(distances(s), distances(t)),
}
"""Instance relations as the kernels compose them; the methods' own tests hold the methods to them."""
EMBEDDINGS = torch.from_numpy(RNG.standard_normal((12, 5)))
TEACHERS = torch.from_numpy(RNG.standard_normal((12, 8)))
every_relation = pytest.mark.parametrize("name", RELATIONS)


@every_relation
def test_gou_12_needs_no_equal_sizes_and_vanishes_at_match(name: str) -> None:
    loss = RELATIONS[name]
    assert float(loss(EMBEDDINGS, TEACHERS)) > 1e-4
    assert float(loss(EMBEDDINGS, EMBEDDINGS)) == pytest.approx(0, abs=1e-12)


@every_relation
def test_gou_12_does_not_know_the_order_of_the_samples(name: str) -> None:
    order = torch.from_numpy(RNG.permutation(12))
    found = RELATIONS[name](EMBEDDINGS[order], TEACHERS[order])
    assert float(found) == pytest.approx(float(RELATIONS[name](EMBEDDINGS, TEACHERS)), rel=1e-9)


@every_relation
def test_gou_12_is_blind_to_a_rotation_of_the_embeddings(name: str) -> None:
    rotation = torch.from_numpy(np.linalg.qr(RNG.standard_normal((5, 5)))[0])
    found = RELATIONS[name](EMBEDDINGS @ rotation, TEACHERS)
    assert float(found) == pytest.approx(float(RELATIONS[name](EMBEDDINGS, TEACHERS)), rel=1e-9)


@every_relation
def test_gou_12_is_blind_to_the_teachers_scale_where_relations_are_normalized(name: str) -> None:
    """Only mlkd compares raw distances."""
    found = float(RELATIONS[name](EMBEDDINGS, 3 * TEACHERS))
    same = found == pytest.approx(float(RELATIONS[name](EMBEDDINGS, TEACHERS)), rel=1e-9)
    assert same == (name != "mlkd")


# ---- hu 2, 3 ---------------------------------------------------------------------------------------


def test_hu_2_norm_and_power_two_is_the_sum_of_squares_behind_our_mean() -> None:
    a, b = torch.from_numpy(STUDENT), torch.from_numpy(TEACHER)
    squares = float(torch.linalg.vector_norm(a - b, 2) ** 2)
    assert squares == pytest.approx(float(((STUDENT - TEACHER) ** 2).sum()), rel=1e-13)
    assert float(mean_squared_error(a, b)) == pytest.approx(squares / (B * C), rel=1e-13)
    assert float(squared_error(a, b)) == pytest.approx(squares / (2 * B), rel=1e-13)


@pytest.mark.parametrize(
    ("distance", "power"), [(squared_error, 2), (mean_squared_error, 2), (root_mean_squared_error, 1)]
)
def test_hu_2_a_scaled_difference_scales_by_the_power(
    distance: Callable[[Tensor, Tensor], Tensor], power: int
) -> None:
    a, difference = torch.from_numpy(STUDENT), torch.from_numpy(TEACHER)
    ratio = float(distance(a + 3 * difference, a)) / float(distance(a + difference, a))
    assert ratio == pytest.approx(3**power, rel=1e-9)


def test_hu_3_the_distance_to_an_anchor_is_a_row_of_the_distances() -> None:
    found = distances(EMBEDDINGS)[4].numpy()
    expected = np.sqrt(((EMBEDDINGS.numpy() - EMBEDDINGS[4].numpy()) ** 2).sum(axis=1))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert found[4] == 0 and (np.delete(found, 4) > 0).all()
    scores = -3.0 * distances(EMBEDDINGS)[4] ** 3
    np.testing.assert_allclose(scores.numpy(), -3.0 * expected**3, rtol=1e-10)
