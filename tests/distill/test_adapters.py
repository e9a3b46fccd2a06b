"""Regressors reach the wanted shape from larger, smaller and equal maps and from vectors."""

from __future__ import annotations

import pytest
import torch

from edgekd.distill.adapters import regressor


@pytest.mark.parametrize(
    ("given", "wanted"),
    [((4, 8, 8), (6, 8, 8)), ((4, 8, 8), (6, 4, 4)), ((4, 4, 4), (6, 8, 8)), ((5,), (7,))],
)
def test_a_regressor_maps_one_shape_to_the_other(given: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    module = regressor(("s", "a"), ("t", "b"))({("s", "a"): given, ("t", "b"): wanted})
    assert module(torch.zeros(2, *given)).shape == (2, *wanted)
