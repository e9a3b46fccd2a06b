"""The budget lies below every limit of the gate by the margin."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.core.errors import UsageError
from edgekd.core.verdict import Limit
from edgekd.search.budget import from_limits
from tests.search.material import latency_limit, size_limit

SPEEDUP = Limit(quantity="speedup", target="pi5", min=2.0, against="teacher", source="gate.speedup.pi5 = 2x")
P90 = Limit(quantity="latency_p90_ms", target="pi5", max=30.0, source="gate.latency_p90.pi5 = 30ms")


def test_a_p50_limit_and_a_size_limit_lose_the_margin() -> None:
    budget = from_limits([latency_limit(20.0), size_limit(1000)], {}, margin=0.1)
    assert budget.latency_ms == {"local": pytest.approx(18.0)}
    assert budget.size_bytes == pytest.approx(900.0)


def test_a_p90_limit_is_divided_by_the_tail_seen_on_the_target() -> None:
    assert from_limits([P90], {}, 0.1, tail={"pi5": 1.25}).latency_ms["pi5"] == pytest.approx(21.6)


def test_a_p90_limit_without_a_known_tail_says_what_it_assumes() -> None:
    budget = from_limits([P90], {}, 0.1)
    assert budget.latency_ms["pi5"] == pytest.approx(27.0)
    assert "p90 / p50 of `pi5` is not known" in budget.notes[0]


def test_a_speedup_is_a_share_of_the_teachers_time() -> None:
    assert from_limits([SPEEDUP], {"pi5": 100.0}, margin=0.2).latency_ms["pi5"] == pytest.approx(40.0)


def test_the_tightest_of_several_limits_on_one_target_counts() -> None:
    budget = from_limits([SPEEDUP, P90], {"pi5": 100.0}, 0.0)
    assert budget.latency_ms == {"pi5": 30.0}
    assert len(budget.bounds) == 2


def test_accuracy_is_not_a_budget() -> None:
    limits = [Limit(quantity=name, target="pi5", max=0.01) for name in ("accuracy_drop", "new_errors")]
    assert from_limits(limits, {}) == from_limits([], {})


def test_limits_that_cannot_be_known_yet_are_noted_not_dropped() -> None:
    memory = Limit(quantity="memory_bytes", target="pi5", max=1e6, source="gate.memory")
    against = Limit(quantity="speedup", target="pi5", min=1.5, against="student", source="gate.speedup")
    notes = from_limits([memory, against], {"pi5": 10.0}).notes
    assert "gate.memory" in notes[0]
    assert "`student`" in notes[1]


def test_a_speedup_needs_the_teacher_timed_on_that_target() -> None:
    with pytest.raises(UsageError, match=r"gate\.speedup\.pi5(.|\n)*needs its latency on `pi5`"):
        from_limits([SPEEDUP], {"local": 3.0})


@pytest.mark.parametrize("margin", [-0.1, 1.0, float("nan")])
def test_a_margin_is_a_share(margin: float) -> None:
    with pytest.raises(UsageError, match="margin"):
        from_limits([], {}, margin)


@given(
    cost=st.floats(0.01, 1e3),
    limit=st.floats(0.01, 1e3),
    margin=st.floats(0, 0.9),
    tail=st.floats(1, 3),
    teacher=st.floats(0.1, 1e3),
)
def test_the_admitting_limit_admits_exactly(
    cost: float, limit: float, margin: float, tail: float, teacher: float
) -> None:
    """A gate rewritten with the admitting limit has a budget equal to the cost."""
    for written in (
        P90.model_copy(update={"max": limit}),
        SPEEDUP.model_copy(update={"min": limit}),
    ):
        (bound,) = from_limits([written], {"pi5": teacher}, margin, tail={"pi5": tail}).bounds
        key = "max" if written.max is not None else "min"
        rewritten = written.model_copy(update={key: bound.admitting(cost)})
        (again,) = from_limits([rewritten], {"pi5": teacher}, margin, tail={"pi5": tail}).bounds
        assert again.value == pytest.approx(cost)
