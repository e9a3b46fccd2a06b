"""The profiles hold what measuring promises."""

from __future__ import annotations

import pytest

from edgekd.core.errors import UsageError
from edgekd.measure.protocol import MIN_PROCESSES, PROTOCOLS, find_protocol


@pytest.mark.parametrize(
    ("name", "duration_s", "count"),
    [("smoke", 1, 64), ("rapid", 6, 64), ("quick", 10, 128), ("normal", 60, 1024), ("mlperf", 600, 1024)],
)
def test_minimum_duration_and_count(name: str, duration_s: float, count: int) -> None:
    protocol = find_protocol(name)
    assert protocol.min_duration_s == duration_s
    assert protocol.min_count >= count


def test_only_smoke_may_not_be_judged() -> None:
    weak = [name for name, protocol in PROTOCOLS.items() if protocol.weakness]
    assert weak == ["smoke"]
    assert all(p.num_processes >= MIN_PROCESSES for name, p in PROTOCOLS.items() if name != "smoke")


def test_shares_of_the_processes_add_up_to_the_minimum() -> None:
    for protocol in PROTOCOLS.values():
        request = protocol.request()
        assert request["min_count"] * protocol.num_processes >= protocol.min_count
        assert request["min_s"] * protocol.num_processes == pytest.approx(protocol.min_duration_s)


def test_an_unknown_profile_lists_the_choices() -> None:
    with pytest.raises(UsageError, match=r"close names: rapid(.|\n)*mlperf"):
        find_protocol("rapidd")


def test_warm_up_follows_the_rule_where_times_are_judged() -> None:
    for protocol in PROTOCOLS.values():
        if protocol.weakness is None:
            rule = protocol.warm_up
            assert (rule.min_s, rule.min_count, rule.tolerance) == (0.5, 10, 0.02)
            assert rule.min_s <= rule.max_s <= 5
