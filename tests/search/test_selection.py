"""The choice: a budget that bites, ties, re-measuring, and what is said when nothing fits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgekd.core.digest import canonical_json
from edgekd.core.errors import DivergedError, InfeasibleError, UsageError
from edgekd.core.verdict import Limit
from edgekd.search.budget import Budget, from_limits
from edgekd.search.latency_table import read_table, write_table
from edgekd.search.scorer import Scorer
from edgekd.search.selection import Considered, Selection, choose
from edgekd.search.space import Candidate
from edgekd.search.strategy import Halving, Shortlist, Strategy
from edgekd.search.timing import Timed
from tests.search.material import (
    TARGET,
    candidates,
    capacity_score,
    features,
    latency_limit,
    size_limit,
    table,
    timed,
    true_ms,
)
from tests.search.test_timing import Memory

EVERYTHING = candidates()
TABLE = table(EVERYTHING)
UNCONSTRAINED = max(EVERYTHING, key=lambda c: capacity_score(c, 1.0))


def select(
    budget: Budget,
    score: Callable[[Candidate, float], float] = capacity_score,
    remeasure: Callable[[Candidate], Timed] = timed,
    strategy: Strategy | None = None,
    num_val: int | None = None,
) -> Selection:
    scorer = Scorer(score, num_val=num_val)
    return choose(EVERYTHING, TABLE, budget, scorer, strategy or Shortlist(), remeasure)


def outcome(selection: Selection, candidate: Candidate) -> Considered:
    return next(c for c in selection.considered if c.id == candidate.id)


def test_without_a_budget_the_best_score_wins_and_the_report_says_there_was_none() -> None:
    found = select(Budget())
    assert found.winner.spec.args == UNCONSTRAINED.spec.args
    assert "no limit of the gate bounds the student" in found.notes


def test_a_latency_budget_rejects_the_unconstrained_winner() -> None:
    limit = true_ms(UNCONSTRAINED) / 3
    found = select(from_limits([latency_limit(limit)], {}))
    assert true_ms(found.winner) <= 0.9 * limit
    rejected = outcome(found, UNCONSTRAINED)
    assert rejected.status == "over_budget"
    assert "gate.latency_p50.local" in rejected.reason


def test_a_size_budget_rejects_the_unconstrained_winner() -> None:
    limit = features(UNCONSTRAINED).size_bytes("fp32") / 3
    found = select(from_limits([size_limit(limit)], {}))
    assert features(found.winner).size_bytes("fp32") <= 0.9 * limit
    assert "bytes is over the budget" in outcome(found, UNCONSTRAINED).reason


def test_a_speedup_against_the_teacher_bites_too() -> None:
    teacher_ms = true_ms(UNCONSTRAINED)
    speedup = Limit(quantity="speedup", target=TARGET, min=4.0, against="teacher", source="gate.speedup")
    found = select(from_limits([speedup], {TARGET: teacher_ms}, margin=0.2))
    assert true_ms(found.winner) <= teacher_ms / 5


def test_among_those_that_fit_the_score_decides() -> None:
    budget = from_limits([latency_limit(true_ms(UNCONSTRAINED) / 3)], {})
    tried = [c for c in select(budget).considered if c.score is not None]
    favorite = tried[-1].id
    found = select(budget, lambda candidate, effort: 0.9 if candidate.id == favorite else 0.5)
    assert found.winner.id == favorite


def test_within_the_noise_of_the_score_the_cheaper_wins() -> None:
    exact = select(Budget())
    noisy = select(Budget(), num_val=10)
    assert true_ms(noisy.winner) < true_ms(exact.winner)
    assert "ties with the best" in outcome(noisy, noisy.winner).reason


def test_a_winner_that_does_not_fit_when_remeasured_gives_way_to_the_next() -> None:
    budget = from_limits([latency_limit(true_ms(UNCONSTRAINED) * 2)], {})
    first = select(budget).winner

    def slower(candidate: Candidate) -> Timed:
        return timed(candidate, 10.0 if candidate.id == first.id else 1.0)

    found = select(budget, remeasure=slower)
    assert found.winner.id != first.id
    rejected = outcome(found, first)
    assert rejected.status == "over_budget_remeasured"
    assert rejected.remeasured == timed(first, 10.0)
    assert rejected.latency[TARGET].p50_ms == pytest.approx(true_ms(first), rel=0.05)


def test_the_shortlist_is_continued_until_something_fits() -> None:
    budget = from_limits([latency_limit(true_ms(UNCONSTRAINED) * 2)], {})
    smallest = min(EVERYTHING, key=true_ms)

    def only_the_smallest_is_fast(candidate: Candidate) -> Timed:
        return timed(candidate, 1.0 if candidate.id == smallest.id else 1e4)

    assert select(budget, remeasure=only_the_smallest_is_fast).winner == smallest


def test_a_remeasured_file_that_is_too_large_is_rejected() -> None:
    budget = from_limits([size_limit(1e9)], {})

    def larger(candidate: Candidate) -> Timed:
        heavy = candidate.id == UNCONSTRAINED.id
        return timed(candidate).model_copy(update={"size_bytes": int(2e9) if heavy else 10})

    assert select(budget, remeasure=larger).winner != UNCONSTRAINED


def test_the_remeasured_latency_is_reported_beside_not_over_the_predicted_one() -> None:
    found = select(Budget(), remeasure=lambda candidate: timed(candidate, 1.03))
    winner = outcome(found, found.winner)
    assert found.remeasured == winner.remeasured == timed(found.winner, 1.03)
    for considered in found.considered:
        latency = considered.latency[TARGET]
        row = next(r for r in TABLE.rows if r.candidate.id == considered.id)
        assert latency.measured_p50_ms == row.latency[TARGET].measured_p50_ms


def test_nothing_fits_names_the_nearest_and_the_limits_that_would_admit_it() -> None:
    smallest = min(EVERYTHING, key=true_ms)
    limits = [latency_limit(true_ms(smallest) / 2), size_limit(1e9)]
    with pytest.raises(InfeasibleError) as caught:
        select(from_limits(limits, {}))
    text = str(caught.value)
    assert caught.value.exit_code == 2
    assert text.index(smallest.id) < text.index("admitted by gate.latency_p50.local")
    assert "(measured)" in text
    assert "minus a margin of 10%" in text
    assert "gate.size.max = 1000000000.0 bytes ->" not in text


def test_the_limit_named_by_the_error_does_admit_the_nearest() -> None:
    smallest = min(EVERYTHING, key=true_ms)
    with pytest.raises(InfeasibleError) as caught:
        select(from_limits([latency_limit(true_ms(smallest) / 2)], {}))
    nearest = next(line for line in str(caught.value).splitlines() if smallest.id in line)
    admitting = float(nearest.rsplit("at most ", 1)[1].split(" ms")[0])
    assert select(from_limits([latency_limit(admitting)], {})).winner == smallest


def test_nothing_fits_after_remeasuring_shows_what_was_remeasured() -> None:
    budget = from_limits([latency_limit(true_ms(UNCONSTRAINED) * 2)], {})
    with pytest.raises(InfeasibleError, match="re-measured"):
        select(budget, remeasure=lambda candidate: timed(candidate, 1e4))


def test_a_candidate_that_diverges_is_passed_over() -> None:
    def score(candidate: Candidate, effort: float) -> float:
        if candidate.spec.args == UNCONSTRAINED.spec.args:
            raise DivergedError("loss is nan")
        return capacity_score(candidate, effort)

    found = select(Budget(), score)
    assert found.winner.spec.args != UNCONSTRAINED.spec.args
    assert outcome(found, UNCONSTRAINED).status == "diverged"


def test_when_every_training_diverges_it_is_not_called_infeasible() -> None:
    with pytest.raises(DivergedError, match="every candidate"):
        select(Budget(), lambda candidate, effort: float("nan"))


def test_a_limit_on_a_target_that_was_not_timed_is_an_error() -> None:
    elsewhere = latency_limit(1.0).model_copy(update={"target": "pi5"})
    with pytest.raises(UsageError, match="no column for pi5"):
        select(from_limits([elsewhere], {}))


def test_a_remeasurement_without_a_limited_target_is_an_error() -> None:
    with pytest.raises(UsageError, match="was not re-measured on local"):
        select(from_limits([latency_limit(1e9)], {}), remeasure=lambda candidate: Timed(p50_ms={}))


def test_a_pinned_table_gives_the_same_choice_as_the_one_it_was_written_from(tmp_path: Path) -> None:
    write_table(tmp_path / "table.json", TABLE)
    pinned = read_table(tmp_path / "table.json")
    budget = from_limits([latency_limit(true_ms(UNCONSTRAINED) / 3)], {})
    again = choose(EVERYTHING, pinned, budget, Scorer(capacity_score), Shortlist(), timed)
    assert again == select(budget)
    assert again.table == TABLE.digest


@pytest.mark.parametrize("strategy", [Shortlist(), Halving()])
def test_the_report_is_plain_data_about_every_candidate_and_the_same_again(strategy: Strategy) -> None:
    budget = from_limits([latency_limit(true_ms(UNCONSTRAINED) / 3)], {})
    first, second = (canonical_json(select(budget, strategy=strategy).model_dump(mode="json")) for _ in "ab")
    assert first == second
    found = Selection.model_validate_json(first)
    assert [c.id for c in found.considered] == [c.id for c in EVERYTHING]
    assert [c.status for c in found.considered].count("selected") == 1
    assert all(c.reason for c in found.considered)


def test_a_killed_selection_neither_trains_nor_times_again_what_it_has() -> None:
    journal, work = Memory(), []

    def score(candidate: Candidate, effort: float) -> float:
        work.append(candidate.id)
        return capacity_score(candidate, effort)

    def killed(candidate: Candidate) -> Timed:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        choose(
            EVERYTHING, TABLE, Budget(), Scorer(score, journal=journal), Shortlist(), killed, journal=journal
        )
    before = len(work)
    choose(EVERYTHING, TABLE, Budget(), Scorer(score, journal=journal), Shortlist(), timed, journal=journal)
    assert before == len(work) == Shortlist().size
