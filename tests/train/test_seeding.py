"""Settings for reproducible training come and go together."""

from __future__ import annotations

import pytest
import torch

from edgekd.core.errors import UsageError
from edgekd.train.seeding import reproducible, seed_step


def test_settings_return_on_leaving() -> None:
    before = (torch.are_deterministic_algorithms_enabled(), torch.get_num_threads())
    with reproducible(1):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.get_num_threads() == 1
    assert (torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()) == before


def test_a_steps_random_numbers_depend_on_seed_and_step_alone() -> None:
    draws = []
    for seed, step in ((0, 1), (0, 2), (0, 1), (1, 1)):
        seed_step(seed, step)
        draws.append(torch.rand(1).item())
    assert draws[0] == draws[2]
    assert len(set(draws)) == 3


def test_the_number_of_threads_must_be_positive() -> None:
    with pytest.raises(UsageError, match="threads"), reproducible(0):
        pass
