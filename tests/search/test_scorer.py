"""A score is trained once, kept in the journal, and a training that diverges is a result."""

from __future__ import annotations

import pytest

from edgekd.core.errors import DivergedError
from edgekd.search.scorer import Scorer
from edgekd.search.space import Candidate
from tests.search.material import candidates
from tests.search.test_timing import Memory

FIRST = candidates()[0]


def test_a_score_is_computed_once_per_candidate_and_effort() -> None:
    calls: list[float] = []

    def score(candidate: Candidate, effort: float) -> float:
        calls.append(effort)
        return effort

    journal = Memory()
    scorer = Scorer(score, journal=journal)
    again = Scorer(score, journal=journal)
    assert [scorer(FIRST, 0.5).value, scorer(FIRST).value, again(FIRST, 0.5).value] == [0.5, 1.0, 0.5]
    assert calls == [0.5, 1.0]
    assert scorer.scores[FIRST.id].effort == 1.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_has_no_value(bad: float) -> None:
    score = Scorer(lambda candidate, effort: bad)(FIRST)
    assert (score.value, score.rank) == (None, float("-inf"))


def test_a_training_that_diverges_is_recorded_not_raised() -> None:
    def diverge(candidate: Candidate, effort: float) -> float:
        raise DivergedError("`kd` is nan at step 7")

    assert "step 7" in Scorer(diverge)(FIRST).note


def test_noise_is_one_binomial_standard_error() -> None:
    assert Scorer(lambda c, e: 0.0, num_val=400).noise(0.9) == pytest.approx(0.015)
    assert Scorer(lambda c, e: 0.0).noise(0.9) == 0.0
    assert Scorer(lambda c, e: 0.0, num_val=400).noise(1.0) == 0.0
