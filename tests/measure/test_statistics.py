"""Every interval against an independent derivation, its limiting cases and its coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, stats

from edgekd.measure import statistics
from edgekd.measure.statistics import (
    clopper_pearson,
    early_stopping_minimum,
    early_stopping_percentile,
    macro_recall,
    mcnemar,
    mean_of_logs,
    paired_difference,
    wilson,
    worst_class_recall,
)

Z = stats.norm.ppf(0.975)


@pytest.mark.parametrize(("k", "n"), [(0, 20), (1, 20), (13, 20), (720, 1000), (20, 20)])
def test_wilson_limits_are_where_the_score_test_is_just_significant(k: int, n: int) -> None:
    interval = wilson(k, n)
    for limit in (interval.low, interval.high):
        if 0 < limit < 1:
            score = abs(k / n - limit) / math.sqrt(limit * (1 - limit) / n)
            assert score == pytest.approx(Z, rel=1e-7)


def test_wilson_reproduces_the_margins_the_protocol_quotes() -> None:
    for n, margin in ((1000, 0.028), (100, 0.088)):
        interval = wilson(round(0.72 * n), n)
        assert (interval.high - interval.low) / 2 == pytest.approx(margin, abs=0.002)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 0.999])
def test_wilson_lower_limit_of_a_high_accuracy_rarely_exceeds_it(share: float) -> None:
    n = 500
    low = np.array([wilson(k, n).low for k in range(n + 1)])
    missed = stats.binom.pmf(np.arange(n + 1), n, share)[low > share].sum()
    assert missed <= 0.033, "a limit below the true accuracy would be passed too often"


def test_wilson_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="not a proportion"):
        wilson(0, 0)


def _score_by_search(lost: int, won: int, n: int, difference: float) -> float:
    """Tango's statistic with the constrained maximum likelihood found by searching, not by its formula."""

    def loss(p_won: float) -> float:
        cells = np.array([p_won + difference, p_won, 1 - 2 * p_won - difference])
        counts = np.array([lost, won, n - lost - won])
        return -float(stats.multinomial.logpmf(counts, n, np.clip(cells, 1e-300, 1)))

    bounds = (max(0.0, -difference) + 1e-12, (1 - difference) / 2 - 1e-12)
    p_won = optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-14}).x
    return (lost - won - n * difference) / math.sqrt(n * (2 * p_won + difference - difference**2))


@pytest.mark.parametrize(("lost", "won", "n"), [(9, 4, 200), (3, 3, 80), (1, 0, 50), (40, 25, 500)])
def test_paired_limits_are_where_the_score_test_is_just_significant(lost: int, won: int, n: int) -> None:
    interval = paired_difference(lost, won, n)
    assert _score_by_search(lost, won, n, interval.low) == pytest.approx(Z, abs=2e-3)
    assert _score_by_search(lost, won, n, interval.high) == pytest.approx(-Z, abs=2e-3)


def test_paired_interval_without_discordant_images_still_has_a_width() -> None:
    interval = paired_difference(0, 0, 300)
    assert interval.high == pytest.approx(Z**2 / (300 + Z**2))
    assert interval.low == pytest.approx(-interval.high)


def test_paired_interval_mirrors_when_losses_and_wins_are_exchanged() -> None:
    one, other = paired_difference(7, 2, 150), paired_difference(2, 7, 150)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))


def test_paired_interval_holds_the_estimate_at_the_extremes() -> None:
    assert paired_difference(5, 0, 5).high == 1
    assert paired_difference(0, 5, 5).low == -1


def test_paired_interval_of_many_images_is_the_normal_one() -> None:
    lost, won, n = 4000, 3000, 200_000
    error = math.sqrt(lost + won - (lost - won) ** 2 / n) / n
    interval = paired_difference(lost, won, n)
    assert interval.high == pytest.approx((lost - won) / n + Z * error, rel=1e-3)


@pytest.mark.parametrize(("mean_lost", "mean_won"), [(0.5, 0.5), (4, 0), (5, 1), (8, 3), (12, 2), (20, 10)])
def test_a_drop_hides_below_the_upper_limit_in_at_most_2_5_percent(mean_lost: float, mean_won: float) -> None:
    """Summed exactly over the multinomial: the error by which a gate would pass a drop at its limit."""
    n = 400
    true = (mean_lost - mean_won) / n
    missed = 0.0
    for lost in range(int(mean_lost + 6 * math.sqrt(mean_lost) + 6)):
        for won in range(int(mean_won + 6 * math.sqrt(mean_won) + 6)):
            if paired_difference(lost, won, n).high < true:
                cells = [mean_lost / n, mean_won / n, 1 - (mean_lost + mean_won) / n]
                missed += stats.multinomial.pmf([lost, won, n - lost - won], n, cells)
    assert missed <= 0.0255


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (0, 5), (7, 3), (4, 4), (60, 30)])
def test_mcnemar_is_the_exact_binomial_test(lost: int, won: int) -> None:
    expected = stats.binomtest(lost, lost + won, 0.5).pvalue if lost + won else 1.0
    assert mcnemar(lost, won) == pytest.approx(expected, rel=1e-9)


def test_macro_recall_of_one_class_is_its_wilson_interval() -> None:
    one, wanted = macro_recall([17], [20]), wilson(17, 20)
    assert (one.low, one.high) == pytest.approx((wanted.low, wanted.high))


def test_perfect_recalls_still_leave_a_width() -> None:
    interval = macro_recall([30] * 5, [30] * 5)
    assert interval.high == 1
    assert 0.94 < interval.low < 1


def test_macro_recall_covers() -> None:
    generator = np.random.default_rng(0)
    recalls, total = np.array([0.99, 0.95, 0.9, 0.7]), np.array([40, 25, 60, 30])
    covered = 0
    for correct in generator.binomial(total, recalls, (1500, 4)):
        interval = macro_recall(correct.tolist(), total.tolist())
        covered += interval.low <= recalls.mean() <= interval.high
    assert 0.935 <= covered / 1500 <= 0.99


@pytest.mark.parametrize("recalls", [[0.9] * 10, [0.97] * 9 + [0.8], [0.6, 0.62, 0.64]])
def test_worst_class_recall_errs_in_at_most_2_5_percent_on_either_side(recalls: list[float]) -> None:
    generator = np.random.default_rng(1)
    total = [50] * len(recalls)
    too_high = too_low = 0
    for correct in generator.binomial(50, recalls, (1500, len(recalls))):
        interval = worst_class_recall(correct.tolist(), total)
        too_high += interval.low > min(recalls)
        too_low += interval.high < min(recalls)
    assert too_high / 1500 <= 0.033, "a class below the limit would be passed too often"
    assert too_low / 1500 <= 0.033


@pytest.mark.parametrize(("k", "n"), [(0, 7), (3, 7), (7, 7), (950, 1000)])
def test_clopper_pearson_is_scipys_exact_interval(k: int, n: int) -> None:
    interval, exact = clopper_pearson(k, n), stats.binomtest(k, n).proportion_ci(0.95, "exact")
    assert (interval.low, interval.high) == pytest.approx((exact.low, exact.high), rel=1e-6)


def test_worst_class_recall_sees_the_rare_class_behind_the_worst_estimate() -> None:
    """Three images all right say less than a hundred with ten wrong: the low end is the rare class's."""
    interval = worst_class_recall([90, 3], [100, 3])
    assert interval.low == pytest.approx(0.025 ** (1 / 3))


def test_mean_of_logs_is_scipys_t_interval_of_the_logarithms() -> None:
    values = [1.0, 1.1, 0.95, 1.3, 1.02]
    value, interval = mean_of_logs(values)
    logs = np.log(values)
    low, high = stats.t.interval(0.95, 4, loc=logs.mean(), scale=stats.sem(logs))
    assert value == pytest.approx(np.exp(logs.mean()))
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((np.exp(low), np.exp(high)))


def test_one_process_gives_no_interval() -> None:
    assert mean_of_logs([2.0]) == (pytest.approx(2.0), None)


def test_five_processes_cover_nominally() -> None:
    generator = np.random.default_rng(2)
    covered = 0
    for logs in generator.normal(0, 0.04, (2000, 5)):
        _, interval = mean_of_logs(np.exp(logs).tolist())
        covered += interval is not None and interval.low <= 1 <= interval.high
    assert 0.935 <= covered / 2000 <= 0.965


@pytest.mark.parametrize(
    ("fraction", "counts"),
    [(0.9, {1: 64, 2: 81, 5: 127, 10: 197}), (0.99, {1: 662, 2: 838, 5: 1307, 10: 2010})],
)
def test_early_stopping_needs_as_many_samples_as_mlperf_says(fraction: float, counts: dict[int, int]) -> None:
    assert {t: early_stopping_minimum(fraction, t) for t in counts} == counts


@pytest.mark.parametrize(("n", "dropped"), [(64, 0), (80, 0), (81, 1), (127, 4), (197, 9)])
def test_early_stopping_drops_one_less_than_t(n: int, dropped: int) -> None:
    found = early_stopping_percentile(list(map(float, range(n, 0, -1))), 0.9)
    assert (found.dropped, found.value) == (dropped, n - dropped)


def test_early_stopping_reports_nothing_below_its_minimum() -> None:
    found = early_stopping_percentile([1.0] * 63, 0.9)
    assert found.value is None
    assert found.needed == 64


def test_early_stopping_underestimates_the_percentile_in_at_most_one_percent() -> None:
    generator = np.random.default_rng(3)
    true = float(stats.expon.ppf(0.9))
    runs = generator.exponential(size=(2000, 150))
    low = sum((early_stopping_percentile(row.tolist(), 0.9).value or 0) < true for row in runs)
    assert low / 2000 <= 0.017


def test_sd_is_numpys() -> None:
    assert statistics.sd([1.0, 4.0, 2.5]) == pytest.approx(np.std([1.0, 4.0, 2.5], ddof=1))
    assert statistics.sd([1.0]) == 0
