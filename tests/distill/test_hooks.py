"""The averaged copy against its recurrence written out."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from edgekd.distill.context import Progress
from edgekd.distill.hooks import BestCopy, Ema, HookScope, Snapshot, follow


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


def pair() -> tuple[nn.Linear, nn.Linear, HookScope]:
    kept, source = nn.Linear(1, 1), nn.Linear(1, 1)
    return kept, source, HookScope({"kept": kept, "source": source}, Progress(0, 0, 0.0), {})


def at(scope: HookScope, fraction: float) -> HookScope:
    return HookScope(scope.roles, Progress(0, 0, fraction), scope.memory)


def test_a_snapshot_is_taken_once_at_its_fraction() -> None:
    kept, source, scope = pair()
    hook, values = Snapshot("kept", of="source", at=0.5), []
    for step in range(4):
        nn.init.constant_(source.weight, step)
        hook.after_step(at(scope, step / 4))
        values.append(kept.weight.item())
    hook.after_phase(at(scope, 0.75))
    assert values[1] not in (0.0, 1.0) and values[2:] == [2.0, 2.0] and kept.weight.item() == 2.0


def test_a_phase_too_short_for_a_snapshot_leaves_its_last_weights() -> None:
    kept, source, scope = pair()
    hook = Snapshot("kept", of="source", at=0.9)
    nn.init.constant_(source.weight, 5.0)
    hook.after_step(at(scope, 0.5))
    assert kept.weight.item() != 5.0
    hook.after_phase(at(scope, 0.5))
    assert kept.weight.item() == 5.0


def test_the_best_copy_follows_only_a_better_score() -> None:
    kept, source, scope = pair()
    hook, values = BestCopy("kept", of="source"), []
    for step, accuracy in enumerate([0.5, 0.4, 0.6, 0.6]):
        nn.init.constant_(source.weight, step)
        hook.after_evaluation(scope, accuracy)
        values.append(kept.weight.item())
    assert values == [0.0, 0.0, 2.0, 2.0]
