"""Adapters reach the wanted shape from larger, smaller and equal maps and from vectors."""

from __future__ import annotations

import pytest
import torch

from edgekd.core.errors import UsageError
from edgekd.distill.adapters import Connector, connector, regressor, resized

SHAPES = [
    ((4, 8, 8), (6, 8, 8)),
    ((4, 8, 8), (6, 4, 4)),
    ((4, 4, 4), (6, 8, 8)),
    ((5,), (7,)),
    ((4, 8, 8), (7,)),
    ((5,), (6, 4, 4)),
]


@pytest.mark.parametrize(("given", "wanted"), SHAPES)
def test_a_regressor_maps_one_shape_to_the_other(given: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    module = regressor(("s", "a"), ("t", "b"))({("s", "a"): given, ("t", "b"): wanted})
    assert module(torch.zeros(2, *given)).shape == (2, *wanted)


@pytest.mark.parametrize(("given", "wanted"), SHAPES)
def test_a_connector_maps_one_shape_to_the_other_as_a_map(
    given: tuple[int, ...], wanted: tuple[int, ...]
) -> None:
    module = connector(("s", "a"), ("t", "b"))({("s", "a"): given, ("t", "b"): wanted})
    assert module(torch.zeros(2, *given)).shape == (2, *(wanted if len(wanted) == 3 else (*wanted, 1, 1)))


def test_what_a_connector_gives_is_normalized_over_the_batch() -> None:
    images = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        given = Connector(3, 5, (4, 4))(images)
    torch.testing.assert_close(given.mean(dim=(0, 2, 3)), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(given.var(dim=(0, 2, 3), unbiased=False), torch.ones(5), atol=1e-2, rtol=0)


def test_a_smaller_size_is_the_mean_of_the_blocks_and_an_equal_one_the_map_itself() -> None:
    images = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert resized(images, (2, 2)).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert resized(images, (4, 4)) is images


def test_one_value_per_channel_is_refused_in_training_only() -> None:
    module = Connector(3, 5, (1, 1))
    with pytest.raises(UsageError, match="batch size of two"):
        module(torch.zeros(1, 3))
    assert module.eval()(torch.zeros(1, 3)).shape == (1, 5, 1, 1)
