"""The `gate:` section: short forms, strict units, limits by target, and what bad input says."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from edgekd.core.errors import UsageError
from edgekd.core.verdict import ANY_TARGET
from edgekd.pipeline.gate_policy import DROP, RULES, SIZE, TIME, GatePolicy, limits


def bounds(text: str, targets: tuple[str, ...] = ("local", "pi5")) -> list[tuple[str, str, float, float]]:
    policy = GatePolicy.model_validate(yaml.safe_load(text))
    return [(one.quantity, one.target, one.min or 0.0, one.max or 0.0) for one in limits(policy, targets)]


def problem(text: str) -> str:
    with pytest.raises(ValidationError) as caught:
        GatePolicy.model_validate(yaml.safe_load(text))
    return str(caught.value)


def test_a_plain_amount_holds_on_every_target() -> None:
    assert bounds("latency_p50: 30ms") == [
        ("latency_p50_ms", "local", 0.0, 30.0),
        ("latency_p50_ms", "pi5", 0.0, 30.0),
    ]


@pytest.mark.parametrize("text", ["latency_p90: {pi5: 30ms}", "latency_p90: {max: {pi5: 30ms}}"])
def test_an_amount_by_target_holds_there_only(text: str) -> None:
    assert bounds(text) == [("latency_p90_ms", "pi5", 0.0, 30.0)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("host_agreement: {pi5: 99.5 %}", ("host_agreement", "pi5", 0.995, 0.0)),
        ("cold_start: {local: 50ms}", ("cold_start_ms", "local", 0.0, 50.0)),
        ("energy: {pi5: 2.5mJ}", ("energy_mj", "pi5", 0.0, 2.5)),
    ],
)
def test_agreement_cold_start_and_energy_may_be_bounded(
    text: str, expected: tuple[str, str, float, float]
) -> None:
    assert bounds(text) == [expected]


def test_a_size_holds_once_for_the_file() -> None:
    assert bounds("size: 12MB") == [("size_bytes", ANY_TARGET, 0.0, 12e6)]


def test_one_quantity_takes_several_bounds() -> None:
    policy = GatePolicy.model_validate(
        yaml.safe_load(
            "{accuracy_drop: [{max: 1.0pt}, {max: 0.5pt, against: student}, {max: 0pt, against: release}],"
            " release: old/}"
        )
    )
    drops = [(one.against, one.max) for one in limits(policy, ["local"])]
    assert drops == [("teacher", 0.01), ("student", 0.005), ("release", 0.0)]


def test_paired_quantities_are_compared_with_the_teacher_unless_told() -> None:
    policy = GatePolicy.model_validate({"speedup": "2x", "new_errors": "1 %", "accuracy": 0.9})
    assert [one.against for one in limits(policy, ["local"])] == [None, "teacher", "teacher"]


@pytest.mark.parametrize(
    ("text", "value"),
    [("30ms", 30.0), ("0.5 s", 500.0), ("250us", 0.25), ("250µs", 0.25), ("1.1ms", 1.1)],
)
def test_times_are_read_in_milliseconds(text: str, value: float) -> None:
    assert TIME.parse(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("12MB", 12e6), ("12MiB", 12 * 2**20), ("3 KB", 3e3), ("3KiB", 3072.0), ("7B", 7.0)],
)
def test_sizes_are_read_in_bytes(text: str, value: float) -> None:
    assert SIZE.parse(text) == value


@pytest.mark.parametrize(("text", "value"), [("1.1pt", 0.011), ("1 %", 0.01), ("-0.5pt", -0.005)])
def test_points_and_percent_of_a_drop_are_the_same_fraction(text: str, value: float) -> None:
    assert DROP.parse(text) == value


def test_an_accuracy_may_be_a_bare_fraction() -> None:
    assert bounds("accuracy: 0.95", ("local",)) == [("accuracy", "local", 0.95, 0.0)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("size: 12", "has no unit; units: B, KB, MB"),
        ("accuracy_drop: 1.0", "has no unit; units: %, pt"),
        ("latency_p90: 30 MB", "has the unit `MB`, which is not one of us, µs, ms, s"),
        ("latency_p90: 30 MS", "has the unit `MS`"),
        ("latency_p90: thirty", "is not a time; write for example `30ms`"),
        ("latency_p90: true", "True is not a time"),
        ("latency_p90: {local: 1e3ms}", "is not a time"),
        ("latency_p90: 0ms", "out of range"),
        ("latency_p90: -1ms", "out of range"),
        ("latency_p90: .nan", "is not a time"),
        ("latency_p90: .inf", "is not a time"),
        ("latency_p90: {}", "needs `max`, for example `max: 30ms`"),
        ("latency_p90: {max: {}}", "names no target"),
        ("accuracy: 95", "out of range"),
        ("accuracy: {max: 95 %}", "takes `min`, not `max`"),
        ("accuracy: {min: 95 %, against: teacher}", "compares with no other subject"),
        ("speedup: {against: teacher}", "needs `min`"),
        ("accuracy_drop: {max: 1pt, against: tutor}", "'teacher', 'student', 'release' or 'reference'"),
        ("accuracy_drop: {max: 1pt, against: release}", "needs `release: FOLDER`"),
        ("max_age: 30", "has no unit; units: s, min, h, d"),
        ("latncy: 30ms", "Extra inputs are not permitted"),
        ("confidence: 1.0", "less than 1"),
    ],
)
def test_bad_input_says_what_is_legal(text: str, expected: str) -> None:
    assert expected in problem(text)


def test_an_unknown_target_lists_the_targets() -> None:
    with pytest.raises(UsageError, match=r"`pi4` is neither a target.*close names: pi5") as caught:
        bounds("latency_p90: {pi4: 30ms}")
    assert caught.value.choices == ("local", "pi5")


@given(st.sampled_from(sorted(RULES)), st.decimals("0.01", "1", places=4))
def test_a_policy_written_down_is_read_back_the_same(name: str, number: object) -> None:
    rule = RULES[name]
    unit = list(rule.unit.factors)[-1]
    policy = GatePolicy.model_validate({name: f"{number}{unit}"})
    again = GatePolicy.model_validate(yaml.safe_load(yaml.safe_dump(policy.model_dump(mode="json"))))
    assert again == policy
    assert limits(again, ["a"]) == limits(policy, ["a"])


def test_the_schema_accepts_what_the_reader_accepts() -> None:
    schema = GatePolicy.model_json_schema()["properties"]
    assert all({"type": "array"}.items() <= schema[name]["anyOf"][-1].items() for name in RULES)
