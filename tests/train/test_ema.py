"""The moving average over parameters and buffers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from edgekd.core.errors import ModelError, UsageError
from edgekd.train.ema import Ema


def test_it_follows_its_recurrence_for_parameters_and_buffers() -> None:
    module = nn.BatchNorm1d(1)
    ema = Ema(module, decay=0.5)
    expected = np.array([1.0, 0.0])
    for number, value in enumerate((3.0, -1.0, 0.5, 2.0, 8.0, 1.0, 0.0, 4.0, 4.0), 1):
        module.weight.data.fill_(value)
        module.running_mean.fill_(2 * value)
        ema.update()
        decay = min(0.5, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * np.array([value, 2 * value])
    average = ema.average()
    assert [average["weight"].item(), average["running_mean"].item()] == pytest.approx(list(expected))


def test_counters_are_copied() -> None:
    module = nn.BatchNorm1d(1)
    ema = Ema(module, decay=0.9)
    module.num_batches_tracked.fill_(7)
    ema.update()
    assert ema.average()["num_batches_tracked"].item() == 7


def test_at_decay_zero_it_is_the_module() -> None:
    module = nn.Linear(2, 2)
    ema = Ema(module, decay=0.0)
    module.weight.data.add_(1)
    ema.update()
    assert torch.equal(ema.average()["weight"], module.weight)


def test_applied_swaps_and_swaps_back_also_after_an_error() -> None:
    module = nn.Linear(2, 2)
    ema = Ema(module, decay=0.9)
    start = module.weight.detach().clone()
    module.weight.data.add_(1)
    with pytest.raises(RuntimeError, match="inside"), ema.applied():
        assert torch.equal(module.weight, start)
        raise RuntimeError("inside")
    assert torch.equal(module.weight, start + 1)


def test_its_state_makes_a_round_trip() -> None:
    module = nn.BatchNorm1d(2)
    ema, other = Ema(module, decay=0.9), Ema(nn.BatchNorm1d(2), decay=0.9)
    module.weight.data.add_(1)
    ema.update()
    other.load_state(ema.state())
    assert other.num_updates == 1
    assert all(torch.equal(value, other.average()[key]) for key, value in ema.average().items())


def test_the_average_of_another_network_is_refused() -> None:
    with pytest.raises(ModelError, match="another network"):
        Ema(nn.Linear(1, 1), 0.9).load_state(Ema(nn.BatchNorm1d(1), 0.9).state())


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_the_decay_must_be_a_share(decay: float) -> None:
    with pytest.raises(UsageError, match="decay"):
        Ema(nn.Linear(1, 1), decay)
