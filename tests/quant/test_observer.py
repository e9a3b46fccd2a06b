"""Ranges from a histogram that sees the data once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgekd.quant.observer import HistogramObserver


def observer(*batches: torch.Tensor) -> HistogramObserver:
    result = HistogramObserver()
    for batch in batches:
        result.observe(batch)
    return result


def test_hundred_percent_is_minimum_and_maximum() -> None:
    assert observer(torch.tensor([-1.25, 0.5]), torch.tensor([3.5])).range(100) == (-1.25, 3.5)


@pytest.mark.parametrize("percentile", [99.0, 99.9, 99.99])
def test_percentiles_are_those_of_all_values_to_one_bin(percentile: float) -> None:
    values = np.random.default_rng(0).normal(0.3, 1.0, 200_000).astype(np.float32)
    low, high = observer(*torch.from_numpy(values).split(20_000)).range(percentile)
    width = 2 * 8 / 8192
    assert low == pytest.approx(np.percentile(values, 100 - percentile), abs=2 * width)
    assert high == pytest.approx(np.percentile(values, percentile), abs=2 * width)


def test_order_of_batches_does_not_matter() -> None:
    small = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    large = 37 * torch.randn(10_000, generator=torch.Generator().manual_seed(1))
    forward, backward = observer(small, large), observer(large, small)
    assert torch.equal(forward.counts.sum(), backward.counts.sum())
    width = 2 * forward.limit / len(forward.counts)
    assert forward.range(99.9) == pytest.approx(backward.range(99.9), abs=2 * width)


def test_no_value_is_lost_when_the_range_doubles() -> None:
    watched = observer(*[torch.full((3,), 2.0**power) for power in range(-5, 12)])
    assert float(watched.counts.sum()) == 3 * 17


def test_zero_is_always_inside() -> None:
    assert observer(torch.tensor([2.0, 3.0])).range(100)[0] == 0.0
    assert observer(torch.tensor([-2.0, -3.0])).range(100)[1] == 0.0


def test_constant_zero_has_an_empty_range() -> None:
    assert observer(torch.zeros(4)).range(99.9) == (0.0, 0.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        observer(torch.tensor([1.0, bad]))


def test_nothing_observed_has_no_range() -> None:
    with pytest.raises(ValueError, match="nothing"):
        HistogramObserver().range(99.9)
