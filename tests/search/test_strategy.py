"""Strategies spend short training on candidates of different shapes, the most capable first."""

from __future__ import annotations

import pytest

from edgekd.search.scorer import Scorer
from edgekd.search.space import Candidate
from edgekd.search.strategy import STRATEGIES, Halving, Shortlist, capacity, shortlist
from tests.search.material import candidates, capacity_score, table

ROWS = table(candidates()).rows


def shape(candidate: Candidate) -> tuple[object, ...]:
    return candidate.spec.args["depth"], candidate.resolution


def test_the_shortlist_takes_the_widest_of_each_shape_before_a_second_width() -> None:
    chosen = shortlist(ROWS, 6)
    assert len({shape(row.candidate) for row in chosen}) == 6
    assert all(row.candidate.spec.args["width"] == 2.0 for row in chosen)
    assert [capacity(row) for row in chosen] == sorted((capacity(row) for row in chosen), reverse=True)
    assert shortlist(ROWS, 7)[6].candidate.spec.args["width"] == 1.0


def test_the_shortlist_does_not_depend_on_the_pools_order() -> None:
    assert shortlist(ROWS, 5) == shortlist(ROWS[::-1], 5)


def test_halving_trains_many_for_little_and_few_in_full() -> None:
    calls: list[float] = []

    def score(candidate: Candidate, effort: float) -> float:
        calls.append(effort)
        return capacity_score(candidate, effort)

    finalists = Halving(size=8, finalists=2).search(ROWS, Scorer(score))
    assert calls == [0.25] * 8 + [0.5] * 4 + [1.0] * 2
    assert len(finalists) == 2


def test_halving_keeps_the_best_of_each_round() -> None:
    tried = shortlist(ROWS, 8)
    best = tried[5].candidate.id
    scorer = Scorer(lambda candidate, effort: float(candidate.id == best))
    assert best in [row.candidate.id for row in Halving(size=8).search(ROWS, scorer)]


@pytest.mark.parametrize("name", STRATEGIES.names())
@pytest.mark.parametrize("count", [1, 2, 3, len(ROWS)])
def test_every_strategy_returns_what_it_scored_in_full(name: str, count: int) -> None:
    scorer = Scorer(capacity_score)
    found = STRATEGIES.load(name)().search(ROWS[:count], scorer)
    assert 1 <= len(found) <= count
    assert all(scorer.scores[row.candidate.id].effort == 1.0 for row in found)
    assert len({row.candidate.id for row in found}) == len(found)


def test_a_shortlist_of_one_is_possible() -> None:
    assert len(Shortlist(size=1).search(ROWS, Scorer(capacity_score))) == 1
