"""The averaged copy against its recurrence written out."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from edgekd.distill.context import Progress
from edgekd.distill.hooks import Ema, HookScope, follow


def test_the_average_follows_the_recurrence_with_a_ramped_decay() -> None:
    average, source = nn.Linear(1, 1, bias=False).double(), nn.Linear(1, 1, bias=False).double()
    hook, memory = Ema("average", of="source", decay=0.5), {}
    scope = HookScope({"average": average, "source": source}, Progress(0, 0, 0.0), memory)
    expected = average.weight.item()
    for count, value in enumerate(np.random.default_rng(0).normal(size=12), start=1):
        nn.init.constant_(source.weight, value)
        hook.after_step(scope)
        decay = min(0.5, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay) * value
        np.testing.assert_allclose(average.weight.item(), expected, rtol=1e-12)


def test_floating_buffers_are_averaged_and_counters_copied() -> None:
    average, source = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    source(torch.rand(4, 2, 3, 3))
    follow(average, source, 0.75)
    assert torch.allclose(average.running_mean, 0.25 * source.running_mean)
    assert average.num_batches_tracked == source.num_batches_tracked == 1
