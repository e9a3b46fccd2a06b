import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekd.data.splitting import hold_out, pick


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(2, 60), min_size=2, max_size=5),
    share=st.floats(0.05, 0.9),
    seed=st.integers(0, 2**62),
)
def test_every_class_is_divided_by_the_share_and_nothing_is_lost(
    counts: list[int], share: float, seed: int
) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    rest, held = hold_out(labels, share, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate([rest, held])), np.arange(len(labels)))
    for label, count in enumerate(counts):
        got = int((labels[held] == label).sum())
        assert got == min(max(round(count * share), 1), count - 1)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**62), sizes=st.lists(st.integers(1, 7), min_size=6, max_size=40))
def test_no_group_is_divided(seed: int, sizes: list[int]) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    labels = np.random.default_rng(seed).integers(0, 3, len(groups))
    rest, held = hold_out(labels, 0.3, seed, groups)
    assert not set(groups[rest]) & set(groups[held])
    assert len(rest) + len(held) == len(groups)


def test_groups_still_give_about_the_share() -> None:
    groups = np.repeat(np.arange(100), 5)
    labels = np.repeat(np.arange(2), 250)
    _, held = hold_out(labels, 0.2, 0, groups)
    np.testing.assert_allclose(np.bincount(labels[held]), [50, 50], atol=5)


def test_a_class_in_few_large_groups_is_held_out_once_and_kept_once() -> None:
    labels = np.repeat([0, 0, 1, 1], 50)
    groups = np.repeat([0, 1, 2, 3], 50)
    rest, held = hold_out(labels, 0.1, 0, groups)
    assert set(labels[rest]) == set(labels[held]) == {0, 1}


def test_a_class_in_one_group_stays_in_the_rest() -> None:
    labels = np.repeat([0, 1], 20)
    groups = np.concatenate([np.zeros(20, np.int64), np.arange(1, 21)])
    rest, held = hold_out(labels, 0.2, 0, groups)
    assert (labels[rest] == 0).sum() == 20
    assert (labels[held] == 1).sum() == 4


def test_the_seed_decides() -> None:
    labels = np.arange(100) % 2
    first, again, other = (hold_out(labels, 0.3, seed)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("count", [2, 10, 33])
def test_pick_is_stratified_at_any_count(count: int) -> None:
    labels = np.repeat([0, 1], [60, 40])
    rows = pick(labels, count, seed=3)
    assert len(set(rows.tolist())) == count
    assert abs((labels[rows] == 0).sum() - 0.6 * count) <= 1


def test_pick_takes_all_where_there_are_fewer() -> None:
    np.testing.assert_array_equal(pick(np.zeros(3, np.int64), 5, 0), [0, 1, 2])
