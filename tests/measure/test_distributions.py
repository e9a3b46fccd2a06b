"""The distributions agree with SciPy's, which only the tests may import."""

from __future__ import annotations

import pytest
from scipy import special, stats

from edgekd.measure.distributions import (
    binomial_cdf,
    bisect,
    incomplete_beta,
    normal_quantile,
    student_t_cdf,
    student_t_quantile,
)


@pytest.mark.parametrize("degrees", [1, 2, 4, 9, 30, 500])
@pytest.mark.parametrize("probability", [0.005, 0.025, 0.5, 0.9, 0.975, 0.9995])
def test_student_t_quantile(degrees: int, probability: float) -> None:
    expected = stats.t.ppf(probability, degrees)
    assert student_t_quantile(probability, degrees) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("t", [-7.0, -0.3, 0.0, 1.5, 40.0])
def test_student_t_cdf(t: float) -> None:
    assert student_t_cdf(t, 4) == pytest.approx(stats.t.cdf(t, 4), abs=1e-12)


@pytest.mark.parametrize(
    ("a", "b", "x"), [(0.5, 0.5, 0.2), (2, 0.5, 0.9), (40, 60, 0.41), (3, 4, 0), (3, 4, 1)]
)
def test_incomplete_beta(a: float, b: float, x: float) -> None:
    assert incomplete_beta(a, b, x) == pytest.approx(special.betainc(a, b, x), rel=1e-11)


@pytest.mark.parametrize(
    ("k", "n", "p"), [(0, 44, 0.1), (3, 10, 0.5), (900, 10000, 0.1), (10, 10, 0.3), (499_000, 10**6, 0.5)]
)
def test_binomial_cdf(k: int, n: int, p: float) -> None:
    assert binomial_cdf(k, n, p) == pytest.approx(stats.binom.cdf(k, n, p), rel=1e-7)


def test_binomial_cdf_below_zero_is_zero() -> None:
    assert binomial_cdf(-1, 10, 0.5) == 0


def test_normal_quantile() -> None:
    assert normal_quantile(0.975) == pytest.approx(stats.norm.ppf(0.975), rel=1e-9)


def test_no_quantile_without_a_degree_of_freedom() -> None:
    with pytest.raises(ValueError, match="degree of freedom"):
        student_t_quantile(0.975, 0)


def test_bisect_finds_the_root_of_rising_and_falling_functions() -> None:
    assert bisect(lambda x: x * x - 2, 0, 2) == pytest.approx(2**0.5)
    assert bisect(lambda x: 2 - x * x, 0, 2) == pytest.approx(2**0.5)
