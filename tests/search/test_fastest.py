"""The choice among artifacts: limits first, then time, then accuracy where times do not differ."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.core.verdict import Outcome
from edgekd.measure.estimate import Estimate
from edgekd.measure.statistics import mean_of_logs
from edgekd.search.fastest import Choice, Contender
from edgekd.search.fastest import choose as choose_by

STEADY = (1.0, 1.01, 0.99, 1.0, 1.0)
"""How five processes of one session differ."""


Times = dict[str, Sequence[float]]


def contender(
    name: str,
    *outcomes: Outcome,
    ms: float = 1.0,
    accuracy: float = 0.9,
    size: int = 1000,
    noise: Sequence[float] = STEADY,
) -> tuple[Contender, Sequence[float]]:
    return Contender(name, outcomes, accuracy, size), [ms * factor for factor in noise]


def choose(made: Sequence[tuple[Contender, Sequence[float]]]) -> Choice:
    return on_targets([one for one, _ in made], {one.name: times for one, times in made})


def on_targets(contenders: Sequence[Contender], *targets: Times) -> Choice:
    def speedup(times: Times, name: str, against: str) -> Estimate:
        ratios = [b / a for a, b in zip(times[name], times[against], strict=True)]
        value, interval = mean_of_logs(ratios)
        return Estimate(value, interval, len(ratios))

    return choose_by(contenders, [partial(speedup, times) for times in targets])


def test_the_fastest_of_those_that_keep_the_limits() -> None:
    found = choose(
        [
            contender("fp32", "pass", ms=2.0, accuracy=0.95),
            contender("int8", "pass", "pass", ms=1.0, accuracy=0.94),
            contender("faster but worse", "fail", "pass", ms=0.5),
        ]
    )
    assert found.winner == "int8"
    assert found.reason == "the fastest of 2 that keep the limits on validation data"
    assert found.slowness == {"fp32": pytest.approx(4), "int8": pytest.approx(2), "faster but worse": 1.0}


def test_one_open_limit_ranks_below_a_kept_one_however_fast() -> None:
    open_one = contender("int8", "pass", "inconclusive", ms=0.1)
    assert choose([open_one, contender("fp32", "pass", ms=9.0)]).winner == "fp32"


def test_without_a_sure_one_the_fastest_that_may_keep_them() -> None:
    found = choose(
        [contender("a", "inconclusive", ms=3), contender("b", "inconclusive"), contender("c", "fail")]
    )
    assert found.winner == "b"
    assert "may keep the limits (none surely does)" in found.reason


def test_where_every_limit_is_broken_the_most_accurate_ships() -> None:
    found = choose([contender("a", "fail", accuracy=0.5, ms=0.1), contender("b", "fail", accuracy=0.6)])
    assert found.winner == "b"
    assert "none keeps the limits" in found.reason


def test_of_equally_fast_ones_the_most_accurate_then_the_smallest() -> None:
    noisy = (1.0, 1.4, 0.7, 1.1, 0.9)
    fp16 = contender("fp16", "pass", ms=0.99, accuracy=0.94, size=500, noise=noisy)
    fp32 = contender("fp32", "pass", ms=1.0, accuracy=0.95)
    assert choose([fp16, fp32]).winner == "fp32"
    same = contender("fp16", "pass", ms=0.99, accuracy=0.95, size=500, noise=noisy)
    found = choose([same, fp32])
    assert found.winner == "fp16"
    assert found.reason.endswith("2 are not told apart in time, of which it is the most accurate")


def test_a_steady_difference_of_two_percent_counts() -> None:
    slower = contender("fp32", "pass", ms=1.02, accuracy=0.99)
    assert choose([slower, contender("int8", "pass", accuracy=0.9)]).winner == "int8"


def test_several_targets_count_by_the_worst() -> None:
    both = [Contender("even", (), 0.9, 1), Contender("lopsided", (), 0.9, 1)]
    pi5: Times = {"even": [2.0] * 5, "lopsided": [6.0] * 5}
    local: Times = {"even": [2.0] * 5, "lopsided": [1.0] * 5}
    found = on_targets(both, pi5, local)
    assert found.winner == "even"
    assert found.slowness == {"lopsided": pytest.approx(3), "even": pytest.approx(2)}


def test_a_single_process_tells_by_its_value() -> None:
    found = choose([contender("a", noise=[1.0], accuracy=0.95), contender("b", ms=0.9, noise=[1.0])])
    assert found.winner == "b"


@given(
    st.lists(
        st.tuples(st.sampled_from(["pass", "inconclusive", "fail"]), st.floats(0.01, 100), st.floats(0, 1)),
        min_size=1,
        max_size=6,
    )
)
def test_nothing_that_stands_better_and_is_surely_faster_is_passed_over(
    rows: list[tuple[Outcome, float, float]],
) -> None:
    made = [contender(str(i), outcome, ms=ms, accuracy=a) for i, (outcome, ms, a) in enumerate(rows)]
    found = choose(made)
    contenders = [one for one, _ in made]
    chosen = contenders[int(found.winner)]
    order = ("pass", "inconclusive", "fail")
    assert all(order.index(chosen.standing) <= order.index(one.standing) for one in contenders)
    if chosen.standing != "fail":
        level = [one for one in contenders if one.standing == chosen.standing]
        fastest = min(found.slowness[one.name] for one in level)
        assert found.slowness[chosen.name] <= fastest * 1.0101
