"""Peak memory of processes, in all and beyond the runtime."""

from __future__ import annotations

import pytest

from edgekd.measure import memory


def process(kb: int) -> dict[str, dict[str, int]]:
    return {"import": {"VmHWM": 40_000}, "load": {"VmHWM": kb - 1}, "run": {"VmHWM": kb, "RssAnon": 9}}


def test_total_and_what_the_model_adds() -> None:
    found = memory.peak([process(70_000), process(70_200), process(70_100)], [process(52_000)] * 2)
    assert found.value == 70_100 * 1024
    assert found.detail["attributable_bytes"] == 18_100 * 1024
    assert found.interval is not None
    assert found.interval.low < found.value < found.interval.high


def test_equal_peaks_are_known_to_a_page() -> None:
    found = memory.peak([process(70_000)] * 3, [process(52_000)])
    assert found.interval is not None
    assert found.interval.high - found.interval.low == pytest.approx(2 * 4096)


def test_one_process_has_no_interval() -> None:
    assert memory.peak([process(70_000)], [process(52_000)]).interval is None


def test_a_kernel_without_the_counter_measures_nothing() -> None:
    found = memory.peak([{"import": {}, "load": {}, "run": {}}], [process(52_000)])
    assert found.value is None
    assert found.missing == "the kernel reports no VmHWM"
