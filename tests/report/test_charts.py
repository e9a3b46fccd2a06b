"""Where charts put things."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.report import charts
from edgekd.report.charts import Scale, front
from edgekd.report.collect import facts_of
from edgekd.report.facts import LimitFact, Number

positive = st.floats(1e-6, 1e6)


@given(positive, positive, positive, st.booleans())
def test_positions_stay_on_the_axis(one: float, other: float, value: float, log: bool) -> None:
    assert 0 <= Scale(min(one, other), max(one, other), log).at(value) <= 100


@given(positive, positive, st.booleans())
def test_ticks_are_few_and_on_the_axis(one: float, other: float, log: bool) -> None:
    low, high = sorted((one, other))
    ticks = Scale(low, high, log).ticks()
    assert len(ticks) <= 8
    slack = (high - low) * 1e-6
    assert all(low - slack <= tick <= high + slack for tick in ticks)


def test_the_front_holds_what_nothing_beats() -> None:
    assert front([(1, 0.8), (2, 0.9), (3, 0.85), (2, 0.7), (1, 0.75)]) == [(1, 0.8), (2, 0.9)]


def bar(number: Number | None, minimum: float | None = None, maximum: float | None = None) -> charts.LimitBar:
    limit = LimitFact("", "local", "accuracy", minimum, maximum, "", "pass", "", None, number)
    found = charts.limit_bar(limit)
    assert found is not None
    return found


def test_an_interval_inside_the_limit_lies_in_the_allowed_stretch() -> None:
    found = bar(Number("accuracy", 0.95, 0.93, 0.97), minimum=0.9)
    start, width = found.inside
    assert found.span is not None
    assert start <= found.span.low < found.span.at < found.span.high <= start + width


def test_an_interval_outside_lies_beside_it() -> None:
    found = bar(Number("accuracy", 0.8, 0.78, 0.82), minimum=0.9)
    assert found.span is not None
    assert found.span.high < found.inside[0]


@pytest.mark.parametrize("number", [None, Number("accuracy", None), Number("accuracy", float("nan"))])
def test_a_limit_without_a_number_shows_its_bound(number: Number | None) -> None:
    found = bar(number, minimum=0.9)
    assert found.span is None
    assert found.bounds[0].text == "90.0 %"


def test_better_rows_stand_higher_and_faster_rows_further_left(run_folder: Path) -> None:
    (target,) = facts_of(run_folder).targets
    plot = charts.pareto(target)
    assert plot is not None
    teacher, final = plot.marks[0], plot.marks[-1]
    assert final.x.at < teacher.x.at
    assert final.y.at < teacher.y.at
