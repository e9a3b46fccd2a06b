"""The candidates that are timed: the extremes, and a spread between them."""

from __future__ import annotations

import numpy as np
import pytest

from edgekd.core.errors import UsageError
from edgekd.search.sample import designed_sample
from tests.search.material import all_features, candidates

EVERYTHING = candidates()
FEATURES = all_features(EVERYTHING)


def test_the_same_seed_gives_the_same_sample_in_the_spaces_order() -> None:
    first, second = (designed_sample(EVERYTHING, FEATURES, 9, seed=3) for _ in range(2))
    assert first == second
    assert [EVERYTHING.index(c) for c in first] == sorted(EVERYTHING.index(c) for c in first)
    assert len(set(first_ids := [c.id for c in first])) == len(first_ids) == 9


def test_the_extremes_of_every_network_are_timed() -> None:
    both = (*EVERYTHING, *candidates("other", depths=(3, 5)))
    facts = all_features(both)
    chosen = {c.id for c in designed_sample(both, facts, 8, seed=0)}
    for name in ("net", "other"):
        own = sorted((c for c in both if c.spec.name == name), key=lambda c: facts[c.id].macs)
        assert {own[0].id, own[-1].id} <= chosen


def test_the_sample_covers_the_space_better_than_a_random_one() -> None:
    def largest_gap(ids: set[str]) -> float:
        logs = {name: np.log([f.macs, f.num_parameters]) for name, f in FEATURES.items()}
        return max(min(float(np.linalg.norm(logs[c.id] - logs[i])) for i in ids) for c in EVERYTHING)

    random = np.random.default_rng(0)
    draws = [random.choice(len(EVERYTHING), 8, replace=False) for _ in range(50)]
    typical = np.median([largest_gap({EVERYTHING[i].id for i in draw}) for draw in draws])
    assert largest_gap({c.id for c in designed_sample(EVERYTHING, FEATURES, 8, seed=0)}) < typical


def test_a_space_smaller_than_the_sample_is_timed_whole() -> None:
    assert designed_sample(EVERYTHING[:3], FEATURES, 8, seed=0) == EVERYTHING[:3]


def test_fewer_than_8_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 8"):
        designed_sample(EVERYTHING, FEATURES, 7, seed=0)
