"""The gate's three-valued rule, what it refuses to judge, and the laws that keep a defect from passing."""

from __future__ import annotations

import math
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from scipy.stats import t

from edgekd.core.errors import UsageError
from edgekd.core.measurement import Interval, Measurement, Subject, Validity
from edgekd.core.verdict import Limit
from edgekd.measure.statistics import mean_of_logs, paired_difference, wilson
from edgekd.pipeline.gate import GatePolicy, Situation, judge_limit
from tests.pipeline.gate_cases import FINAL, NOW, TEACHER, measured, result_of, verdict_of

ACCURACY = {"accuracy": "90 %"}
LATENCY = {"latency_p90": "30ms"}
finite = st.floats(0.01, 100.0)


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.91, 0.95, "pass"),
        (0.90, 0.95, "pass"),  # touches the limit from inside
        (0.89, 0.95, "inconclusive"),
        (0.85, 0.90, "inconclusive"),  # touches the limit from outside
        (0.85, 0.89, "fail"),
    ],
)
def test_a_floor_is_judged_by_the_whole_interval(low: float, high: float, outcome: str) -> None:
    assert result_of(ACCURACY, measured("accuracy", (low + high) / 2, low, high)).outcome == outcome


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (20, 29, "pass"),
        (20, 30, "pass"),
        (20, 31, "inconclusive"),
        (30, 40, "inconclusive"),
        (31, 40, "fail"),
    ],
)
def test_a_ceiling_is_judged_by_the_whole_interval(low: float, high: float, outcome: str) -> None:
    taken = measured("latency_p90_ms", (low + high) / 2, low, high)
    assert result_of(LATENCY, taken).outcome == outcome


@pytest.mark.parametrize(
    ("size", "outcome"), [(12_000_000, "pass"), (11_999_999, "pass"), (12_000_001, "fail")]
)
def test_a_size_compares_directly(size: float, outcome: str) -> None:
    assert result_of({"size": "12MB"}, measured("size_bytes", size)).outcome == outcome


def test_the_sizes_of_one_file_on_two_targets_are_one_measurement() -> None:
    sizes = [measured("size_bytes", 10, target=name) for name in ("local", "pi5")]
    assert result_of({"size": "12B"}, *sizes).outcome == "pass"


def test_an_estimate_outside_its_own_interval_does_not_pass() -> None:
    assert result_of(LATENCY, measured("latency_p90_ms", 35, 20, 28)).outcome == "inconclusive"


def refused(policy: dict[str, object], *measurements: Measurement, **changes: object) -> str:
    result = result_of(policy, *measurements, **changes)
    assert result.outcome == "inconclusive"
    assert result.decide
    return result.reason


def good_accuracy(**changes: object) -> Measurement:
    return measured("accuracy", 0.95, 0.93, 0.97, **changes)


def test_a_good_measurement_of_the_helpers_passes() -> None:
    assert result_of(ACCURACY, good_accuracy()).outcome == "pass"


def test_a_number_without_interval_is_inconclusive() -> None:
    assert "without an interval" in refused(ACCURACY, measured("accuracy", 0.99))


def test_an_interval_without_width_is_inconclusive() -> None:
    assert "no width" in refused(ACCURACY, measured("accuracy", 1.0, 1.0, 1.0))


def test_an_interval_from_no_samples_is_inconclusive() -> None:
    assert "nothing was sampled" in refused(ACCURACY, good_accuracy(n=0))


def test_a_missing_measurement_is_inconclusive() -> None:
    assert refused(ACCURACY) == "accuracy was not measured on local"


def test_the_measurement_of_another_target_does_not_count() -> None:
    assert "was not measured" in refused(ACCURACY, good_accuracy(target="pi5"))


def test_the_measurement_of_another_subject_does_not_count() -> None:
    assert "was not measured" in refused(ACCURACY, good_accuracy(subject=TEACHER))


def test_a_comparison_with_another_subject_does_not_count() -> None:
    other = Subject(name="student", digest="5" * 64)
    taken = measured("accuracy_drop", 0.0, -0.001, 0.001, against=other)
    assert "against teacher was not measured" in refused({"accuracy_drop": "1pt"}, taken)


def test_a_plan_word_is_compared_with_the_subject_it_stands_for() -> None:
    taken = measured(
        "accuracy_drop", 0.0, -0.001, 0.001, against=Subject(name="distilled-2", digest="5" * 64)
    )
    policy = {"accuracy_drop": {"max": "1pt", "against": "student"}}
    known = {"student": Subject(name="distilled-2", digest="5" * 64)}
    assert result_of(policy, taken, against=known).outcome == "pass"


def test_a_reason_for_not_measuring_is_told() -> None:
    taken = measured("accuracy", None, not_measured="the target was lost")
    assert refused(ACCURACY, taken) == "not measured: the target was lost"


def test_an_invalid_measurement_is_inconclusive_with_its_reasons() -> None:
    taken = good_accuracy(validity=Validity(valid=False, reasons=("throttled", "steal 3 %")))
    assert refused(ACCURACY, taken) == "invalid: throttled; steal 3 %"


def test_an_invalid_measurement_does_not_fail_either() -> None:
    taken = measured("accuracy", 0.5, 0.4, 0.6, validity=Validity(valid=False))
    assert "invalid" in refused(ACCURACY, taken)


def test_another_artifact_is_refused() -> None:
    assert "digests differ" in refused(ACCURACY, good_accuracy(), final_digest="0" * 64)


def test_a_comparison_with_another_teacher_is_refused() -> None:
    taken = measured("speedup", 3.0, 2.9, 3.1)
    known = {"teacher": Subject(name="teacher", digest="0" * 64)}
    assert "compared with another teacher" in refused({"speedup": "2x"}, taken, against=known)


@pytest.mark.parametrize(
    ("taken_at", "reason"),
    [
        ("2026-10-01T00:00:00+00:00", "older than max_age 30d"),
        ("2026-10-01T00:00:00", "older than max_age 30d"),
        ("2026-12-01T00:00:00+00:00", "dated in the future"),
        ("yesterday", "which is not a time"),
    ],
)
def test_a_measurement_of_another_time_is_refused(taken_at: str, reason: str) -> None:
    assert reason in refused(ACCURACY, good_accuracy(taken_at=taken_at))


def test_a_measurement_exactly_as_old_as_allowed_is_judged() -> None:
    taken = good_accuracy(taken_at=(NOW - timedelta(days=30)).isoformat())
    assert result_of(ACCURACY, taken).outcome == "pass"


def test_an_emulated_device_never_decides() -> None:
    assert "emulated" in refused(ACCURACY, good_accuracy(device={"emulated": True}))


def test_a_size_needs_no_real_device() -> None:
    taken = measured("size_bytes", 1, device={"emulated": True})
    assert result_of({"size": "12B"}, taken).outcome == "pass"


@pytest.mark.parametrize(
    ("required", "device", "passes"),
    [
        ({"governor": "performance"}, {"governor": "performance"}, True),
        ({"governor": "performance"}, {"governor": "powersave"}, False),
        ({"governor": "performance"}, {}, False),
        ({"cpu.model": "A76"}, {"cpu": {"model": "A76"}}, True),
        ({"cpu.model": "A76"}, {"cpu": "A76"}, False),
        ({"local": {"cores": 4}}, {"cores": 4}, True),
        ({"local": {"cores": 4}}, {"cores": 2}, False),
        ({"pi5": {"cores": 4}}, {"cores": 2}, True),
    ],
)
def test_required_facts_must_match(
    required: dict[str, object], device: dict[str, object], passes: bool
) -> None:
    policy = ACCURACY | {"required": required}
    assert (result_of(policy, good_accuracy(device=device)).outcome == "pass") is passes


def test_an_interval_of_too_low_a_level_is_refused() -> None:
    interval = Interval(low=0.93, high=0.97, level=0.9, method="test")
    assert "holds at 90%; the gate asks for 95%" in refused(ACCURACY, good_accuracy(interval=interval))


def test_two_different_measurements_of_one_thing_are_refused() -> None:
    pair = [good_accuracy(), measured("accuracy", 0.5, 0.4, 0.6)]
    assert "measured 2 times" in refused(ACCURACY, *pair)


def test_the_same_measurement_twice_is_one() -> None:
    assert result_of(ACCURACY, good_accuracy(), good_accuracy()).outcome == "pass"


def test_no_limits_is_inconclusive() -> None:
    assert verdict_of({}, good_accuracy()).outcome == "inconclusive"


def test_a_limit_without_bounds_is_inconclusive() -> None:
    situation = Situation(GatePolicy(), FINAL.name, FINAL.digest, NOW)
    limit = Limit(quantity="accuracy", target="local")
    assert judge_limit(limit, [good_accuracy()], situation).outcome == "inconclusive"


def test_one_failure_outweighs_everything() -> None:
    verdict = verdict_of(ACCURACY | LATENCY | {"size": "5B"}, good_accuracy(), measured("size_bytes", 9))
    assert [one.outcome for one in verdict.results] == ["pass", "inconclusive", "fail"]
    assert (verdict.outcome, verdict.exit_code) == ("fail", 1)


def test_one_open_limit_outweighs_passes() -> None:
    verdict = verdict_of(ACCURACY | LATENCY, good_accuracy())
    assert (verdict.outcome, verdict.exit_code) == ("inconclusive", 3)


def test_every_target_is_judged() -> None:
    verdict = verdict_of(ACCURACY, good_accuracy(), targets=["local", "pi5"])
    assert [one.outcome for one in verdict.results] == ["pass", "inconclusive"]


def test_an_unknown_target_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"gate\.latency_p90"):
        verdict_of({"latency_p90": {"pi6": "1ms"}})


def images_in(decide: str | None) -> int:
    """The count of `about 4,000 test images in all ...`."""
    assert decide is not None
    return int(decide.split()[1].replace(",", ""))


def test_decide_says_how_many_images_an_accuracy_needs() -> None:
    interval = wilson(910, 1000)
    result = result_of(ACCURACY, measured("accuracy", 0.91, interval.low, interval.high))
    total = images_in(result.decide)
    assert wilson(round(0.91 * total), total).low > 0.9
    assert wilson(round(0.91 * (total - 100)), total - 100).low <= 0.9
    assert f"({total - 1000:,} more)" in (result.decide or "")


def test_decide_says_how_many_images_a_failing_accuracy_needs() -> None:
    interval = wilson(890, 1000)
    total = images_in(result_of(ACCURACY, measured("accuracy", 0.89, interval.low, interval.high)).decide)
    assert wilson(round(0.89 * total), total).high < 0.9


def test_decide_says_how_many_images_a_drop_needs() -> None:
    interval = paired_difference(12, 7, 1000)
    taken = measured("accuracy_drop", 0.005, interval.low, interval.high, detail={"lost": 12, "won": 7})
    total = images_in(result_of({"accuracy_drop": "1pt"}, taken).decide)
    assert paired_difference(round(0.012 * total), round(0.007 * total), total).high < 0.01


def test_decide_gives_a_factor_for_a_drop_whose_counts_are_unknown() -> None:
    taken = measured("accuracy_drop", 0.005, -0.005, 0.015)
    assert "about 4 times as many test images" in (result_of({"accuracy_drop": "1pt"}, taken).decide or "")


def test_decide_counts_processes_on_the_logarithm_for_times_as_a_second_look_needs_them() -> None:
    times = [25.0, 29.0, 31.0, 27.0, 26.0]
    value, interval = mean_of_logs(times)
    assert interval is not None
    taken = measured("latency_p90_ms", value, interval.low, interval.high, protocol={"processes": 5})
    result = result_of(LATENCY, taken)
    total = images_in(result.decide)
    spread = np.std(np.log(times), ddof=1)
    assert value * math.exp(t.ppf(0.995, total - 1) * spread / math.sqrt(total)) < 30
    assert value * math.exp(t.ppf(0.995, total - 2) * spread / math.sqrt(total - 1)) > 30


def test_decide_gives_a_factor_when_the_number_of_processes_is_unknown() -> None:
    taken = measured("latency_p90_ms", 28, 25, 31)
    assert "times as many processes" in (result_of(LATENCY, taken).decide or "")


def test_a_value_on_the_limit_cannot_be_decided_by_more_samples() -> None:
    assert "no practical number" in (result_of(ACCURACY, measured("accuracy", 0.9, 0.8, 0.95)).decide or "")


@given(finite, finite, finite, finite, finite)
def test_tightening_a_limit_never_improves_the_outcome(
    value: float, one: float, other: float, loose: float, tight: float
) -> None:
    rank = {"fail": 0, "inconclusive": 1, "pass": 2}
    taken = measured("latency_p90_ms", value, min(one, other), max(one, other))
    tight, loose = sorted((tight, loose))
    outcomes = [result_of({"latency_p90": f"{bound:.6f}ms"}, taken).outcome for bound in (tight, loose)]
    assert rank[outcomes[0]] <= rank[outcomes[1]]


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.integers(0, 100))
def test_only_an_interval_wholly_inside_passes(value: float, one: float, other: float, bound: int) -> None:
    low, high = sorted((one, other))
    outcome = result_of({"accuracy": f"{bound}%"}, measured("accuracy", value, low, high)).outcome
    limit = float(bound) / 100
    if outcome == "pass":
        assert min(value, low, high) >= limit
    if outcome == "fail":
        assert max(value, low, high) < limit


@settings(suppress_health_check=[HealthCheck.filter_too_much])
@given(st.floats(), st.floats(), st.floats())
def test_nothing_that_is_not_a_finite_number_passes(value: float, low: float, high: float) -> None:
    assume(not all(map(math.isfinite, (value, low, high))))
    assert result_of({"accuracy": "0%"}, measured("accuracy", value, low, high)).outcome == "inconclusive"


@given(
    st.sampled_from(
        [
            {"validity": Validity(valid=False)},
            {"value": None},
            {"subject": Subject(name="quantized", digest="0" * 64)},
            {"target": "elsewhere"},
            {"n": 0},
            {"interval": None},
            {"device": {"emulated": True}},
            {"taken_at": "2020-01-01T00:00:00+00:00"},
            {"taken_at": ""},
        ]
    ),
    finite,
)
def test_a_flawed_measurement_neither_passes_nor_fails(flaw: dict[str, object], bound: float) -> None:
    taken = measured("latency_p90_ms", 10, 9, 11).model_copy(update=flaw)
    assert result_of({"latency_p90": f"{bound:.6f}ms"}, taken).outcome == "inconclusive"


@given(finite, finite, finite, finite)
def test_a_narrower_interval_never_turns_a_decision_around(
    low: float, high: float, bound: float, shrink: float
) -> None:
    low, high = sorted((low, high))
    middle, half = (low + high) / 2, (high - low) / 2
    assume(half > 0)
    policy = {"latency_p90": f"{bound:.6f}ms"}
    wide = result_of(policy, measured("latency_p90_ms", middle, low, high)).outcome
    half /= 1 + shrink
    narrow = result_of(policy, measured("latency_p90_ms", middle, middle - half, middle + half)).outcome
    assert wide in ("inconclusive", narrow)


@pytest.mark.parametrize(
    ("lost", "won"), [(0.02, 0.01), (0.012, 0.002), (0.06, 0.05)], ids=["usual", "few discordant", "many"]
)
def test_a_drop_that_is_truly_at_the_limit_passes_in_at_most_the_nominal_share_of_runs(
    lost: float, won: float
) -> None:
    # The true drop equals the limit, the hardest defect to catch; 2.5 % is one tail of the 95 % interval.
    # Three standard errors of 4,000 trials are 0.74 %.
    generator = np.random.default_rng(0)
    n, trials, passed = 2000, 4000, 0
    verdicts: dict[tuple[int, int], bool] = {}
    for losses, wins, _ in generator.multinomial(n, [lost, won, 1 - lost - won], size=trials):
        key = (int(losses), int(wins))
        if key not in verdicts:
            interval = paired_difference(*key, n)
            taken = measured("accuracy_drop", (key[0] - key[1]) / n, interval.low, interval.high, n=n)
            policy = {"accuracy_drop": f"{(lost - won) * 100:.6f}pt"}
            verdicts[key] = result_of(policy, taken).outcome == "pass"
        passed += verdicts[key]
    assert passed / trials <= 0.025 + 0.0074


def test_a_latency_that_is_truly_over_the_limit_passes_in_at_most_the_nominal_share_of_runs() -> None:
    generator = np.random.default_rng(1)
    trials, passed = 1500, 0
    for logs in generator.normal(math.log(30.001), 0.05, size=(trials, 5)):
        value, interval = mean_of_logs([float(x) for x in np.exp(logs)])
        assert interval is not None
        taken = measured("latency_p90_ms", value, interval.low, interval.high)
        passed += result_of(LATENCY, taken).outcome == "pass"
    assert passed / trials <= 0.025 + 0.0121
