"""What would decide a limit: the count given is enough and one fewer is not."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from edgekd.measure.decidability import (
    drop_is_decidable,
    images_to_decide_drop,
    images_to_decide_share,
    processes_to_decide,
    share_is_decidable,
)
from edgekd.measure.statistics import paired_difference, wilson


def test_more_images_decide_a_share_that_straddles_its_limit() -> None:
    needed = images_to_decide_share(900, 1000, 0.89)
    assert needed is not None
    assert needed > 1000
    assert wilson(round(0.9 * needed), needed).low > 0.89
    assert wilson(round(0.9 * needed * 0.9), round(needed * 0.9)).low <= 0.89


def test_a_share_that_is_decided_needs_no_more_images() -> None:
    assert images_to_decide_share(990, 1000, 0.9) == 1000


def test_a_share_on_its_limit_is_never_decided() -> None:
    assert images_to_decide_share(500, 1000, 0.5) is None


def test_more_images_decide_a_drop() -> None:
    needed = images_to_decide_drop(12, 6, 1000, 0.01)
    assert needed is not None
    assert paired_difference(round(0.012 * needed), round(0.006 * needed), needed).high < 0.01
    assert paired_difference(12, 6, 1000).high > 0.01


def test_more_processes_decide_a_time() -> None:
    needed = processes_to_decide(30.0, 0.05, 5, 31.0)
    assert needed is not None
    distance = math.log(31 / 30)
    for count, decided in ((needed, True), (needed - 1, False)):
        half = stats.t.ppf(0.975, count - 1) * 0.05 / math.sqrt(count)
        assert bool(half < distance) is decided


def test_no_number_of_processes_decides_a_time_on_its_limit() -> None:
    assert processes_to_decide(30.0, 0.05, 5, 30.0) is None


@pytest.mark.parametrize(("n", "decidable"), [(200, False), (5000, True)])
def test_a_drop_limit_of_one_point_needs_thousands_of_images(n: int, decidable: bool) -> None:
    assert drop_is_decidable(n, 0.01, discordance=0.03) is decidable


def test_an_expected_drop_beyond_the_limit_cannot_pass() -> None:
    assert not drop_is_decidable(100_000, 0.01, discordance=0.03, drop=0.02)


def test_whether_a_share_can_be_told_from_its_limit() -> None:
    assert share_is_decidable(2000, 0.9, 0.95)
    assert not share_is_decidable(100, 0.9, 0.92)
