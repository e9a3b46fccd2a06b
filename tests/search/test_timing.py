"""A table is made from few timings, each journaled, and never from one that is missing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from edgekd.core.errors import UsageError
from edgekd.search.space import Candidate
from edgekd.search.timing import P50, Conditions, Timed, build_table
from tests.search.material import TARGET, all_features, candidates, table, time_candidates, timed, true_ms

EVERYTHING = candidates()
FEATURES = all_features(EVERYTHING)


class Memory:
    """A journal in a dict, as the run folder's is on disk."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    def __call__(self, key: str, compute: Callable[[], Any]) -> Any:
        if key not in self.kept:
            self.kept[key] = compute()
        return self.kept[key]


def test_candidates_that_were_not_timed_are_predicted_within_the_stated_error() -> None:
    made = table(EVERYTHING, num_timed=12)
    for row in made.rows:
        latency = row.latency[TARGET]
        if not latency.measured:
            assert latency.predicted_p50_ms == pytest.approx(true_ms(row.candidate), rel=0.05)


def test_a_killed_session_times_only_what_is_not_in_the_journal() -> None:
    journal, calls = Memory(), []

    def dies_at_the_fifth(group: Sequence[Candidate]) -> dict[str, Timed]:
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.extend(group)
        return time_candidates(group)

    with pytest.raises(KeyboardInterrupt):
        build_table(EVERYTHING, FEATURES, dies_at_the_fifth, 10, Conditions(), journal=journal)
    before = len(calls)

    def counted(group: Sequence[Candidate]) -> dict[str, Timed]:
        calls.extend(group)
        return time_candidates(group)

    resumed = build_table(EVERYTHING, FEATURES, counted, 10, Conditions(), journal=journal)
    assert (before, len(calls)) == (4, 10)
    assert resumed == table(EVERYTHING, num_timed=10)


def test_a_group_is_timed_by_one_call() -> None:
    sizes = []

    def grouped(group: Sequence[Candidate]) -> dict[str, Timed]:
        sizes.append(len(group))
        return time_candidates(group)

    build_table(EVERYTHING, FEATURES, grouped, 10, Conditions(), group_size=4)
    assert sizes == [4, 4, 2]


def test_the_size_of_an_exported_file_replaces_the_estimate() -> None:
    def with_size(group: Sequence[Candidate]) -> dict[str, Timed]:
        return {c.id: timed(c).model_copy(update={"size_bytes": 12_345}) for c in group}

    made = build_table(EVERYTHING, FEATURES, with_size, 8, Conditions(precision="int8"))
    for row in made.rows:
        estimate = FEATURES[row.candidate.id].size_bytes("int8")
        assert row.size_bytes == (12_345 if row.latency[TARGET].measured else estimate)


def test_two_targets_are_predicted_apart() -> None:
    def on_two(group: Sequence[Candidate]) -> dict[str, Timed]:
        return {c.id: Timed(p50_ms={n: P50(value=true_ms(c) * k) for n, k in FACTORS}) for c in group}

    FACTORS = (("local", 1.0), ("pi5", 7.0))
    made = build_table(EVERYTHING, FEATURES, on_two, 10, Conditions())
    assert set(made.predictors) == {"local", "pi5"}
    for row in made.rows:
        assert row.latency["pi5"].p50_ms == pytest.approx(7 * row.latency["local"].p50_ms)


def test_a_handful_of_candidates_is_timed_whole_and_predicts_nothing() -> None:
    made = table(EVERYTHING[:3])
    assert made.predictors == {}
    assert all(row.latency[TARGET].predicted_p50_ms is None for row in made.rows)


def test_a_candidate_without_a_timing_is_an_error() -> None:
    with pytest.raises(UsageError, match="no timing came back for"):
        build_table(EVERYTHING, FEATURES, lambda group: {}, 8, Conditions())


def test_a_target_that_is_missing_for_one_candidate_is_an_error() -> None:
    largest = EVERYTHING[-2].id

    def gaps(group: Sequence[Candidate]) -> dict[str, Timed]:
        names = {c.id: "elsewhere" if c.id == largest else TARGET for c in group}
        return {c.id: Timed(p50_ms={names[c.id]: P50(value=1.0)}) for c in group}

    with pytest.raises(UsageError, match=f"was not timed for {largest}"):
        build_table(EVERYTHING, FEATURES, gaps, 24, Conditions())
