"""A predictor is judged by candidates it has not seen, and its parts by independent formulas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from edgekd.core.errors import UsageError
from edgekd.search.agreement import kendall_tau, leave_one_out, relative_errors
from edgekd.search.predictor import (
    PREDICTORS,
    LatencyPredictor,
    log_ridge,
    nonnegative_least_squares,
    roofline,
)
from tests.search.material import all_features, candidates, features, true_ms


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=12))
def test_kendall_tau_agrees_with_scipy(pairs: list[tuple[int, int]]) -> None:
    first, second = np.array(pairs, np.float64).T
    expected = stats.kendalltau(first, second).statistic if np.ptp(first) and np.ptp(second) else 0.0
    assert kendall_tau(first, second) == pytest.approx(expected, abs=1e-12)


@given(st.integers(0, 2**32 - 1))
def test_nonnegative_least_squares_agrees_with_scipy(seed: int) -> None:
    random = np.random.default_rng(seed)
    design, target = random.normal(size=(8, 4)), random.normal(size=8)
    expected, _ = optimize.nnls(design, target)
    assert nonnegative_least_squares(design, target) == pytest.approx(expected, abs=1e-7)


def test_relative_errors_are_shares_of_the_measured_value() -> None:
    assert relative_errors(np.array([11.0, 8.0]), np.array([10.0, 10.0])) == pytest.approx([0.1, 0.2])


def test_leaving_one_out_never_shows_a_row_its_own_latency() -> None:
    def cheat(inputs: np.ndarray, outputs: np.ndarray, queries: np.ndarray) -> np.ndarray:
        return np.array([outputs[np.where(inputs == query)[0]].sum() for query in queries])

    assert np.all(leave_one_out(cheat, np.arange(4.0)[:, None], np.ones(4)) == 0)


def test_roofline_recovers_additive_costs_and_extrapolates() -> None:
    random = np.random.default_rng(0)
    inputs = random.uniform(1, 10, (12, 5))
    costs = np.array([0.5, 0.0, 2.0, 0.1, 0.0])
    queries = inputs * 20
    predicted = roofline(inputs, 0.3 + inputs @ costs, queries)
    assert predicted == pytest.approx(0.3 + queries @ costs, rel=1e-6)


def test_log_ridge_recovers_a_power_law() -> None:
    random = np.random.default_rng(0)
    inputs = random.uniform(1e3, 1e6, (40, 2))
    latencies = 1e-4 * inputs[:, 0] ** 0.7 * inputs[:, 1] ** 0.2
    assert log_ridge(inputs[:30], latencies[:30], inputs[30:]) == pytest.approx(latencies[30:], rel=0.01)


def test_predictions_are_right_where_time_adds_up_over_layers() -> None:
    everything = candidates()
    timed, rest = everything[::2], everything[1::2]
    predictor = LatencyPredictor([features(c) for c in timed], [true_ms(c) for c in timed])
    assert predictor.predict_ms([features(c) for c in rest]) == pytest.approx(
        [true_ms(c) for c in rest], rel=0.02
    )
    assert predictor.facts.kendall_tau > 0.95
    assert predictor.facts.within_10_percent > 0.9


def test_facts_tell_of_noise_in_the_timings() -> None:
    everything = candidates()
    noise = np.exp(np.random.default_rng(0).normal(0, 0.3, len(everything)))
    noisy = [true_ms(c) * factor for c, factor in zip(everything, noise, strict=True)]
    facts = LatencyPredictor(list(all_features(everything).values()), noisy).facts
    assert facts.median_error > 0.1
    assert facts.within_10_percent < 0.7


def test_held_out_predictions_do_not_depend_on_their_own_timing() -> None:
    some = candidates()[:10]
    latencies = [true_ms(c) for c in some]
    honest = LatencyPredictor([features(c) for c in some], latencies)
    spoilt = LatencyPredictor([features(c) for c in some], [latencies[0] * 50, *latencies[1:]])
    assert spoilt.held_out_ms[0] == pytest.approx(honest.held_out_ms[0])


@pytest.mark.parametrize("name", PREDICTORS)
def test_every_predictor_survives_a_feature_that_never_varies(name: str) -> None:
    inputs = np.column_stack([np.arange(1.0, 9.0), np.zeros(8), np.full(8, 3.0)])
    predicted = PREDICTORS[name](inputs, np.arange(1.0, 9.0), inputs)
    assert np.all(np.isfinite(predicted))


def test_too_few_timings_are_refused() -> None:
    some = candidates()[:4]
    with pytest.raises(UsageError, match="4 timed candidates cannot predict"):
        LatencyPredictor([features(c) for c in some], [1.0] * 4)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_a_latency_that_is_no_time_is_refused(bad: float) -> None:
    some = candidates()[:5]
    with pytest.raises(UsageError, match="not a positive number"):
        LatencyPredictor([features(c) for c in some], [bad, 1.0, 1.0, 1.0, 1.0])
