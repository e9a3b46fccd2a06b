"""Schedules against their formulas, worked out in NumPy, and against torch's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from edgekd.train.schedule import ScheduleConfig, cosine, one_cycle, step

NAMES = ["cosine", "one_cycle", "step", "constant"]


def test_cosine_is_half_a_cosine() -> None:
    fractions = np.linspace(0, 1, 11)
    expected = 0.1 + 0.9 * (1 + np.cos(np.pi * fractions)) / 2
    np.testing.assert_allclose([cosine(f, final=0.1) for f in fractions], expected, atol=1e-12)


def test_warm_up_is_linear_from_zero_and_meets_the_cosine_at_one() -> None:
    assert [cosine(f, warmup=0.2) for f in (0.0, 0.05, 0.1, 0.2)] == pytest.approx([0, 0.25, 0.5, 1])
    assert cosine(0.6, warmup=0.2) == pytest.approx(0.5)


def test_one_cycle_is_torchs() -> None:
    num_steps = 50
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=num_steps)
    # Torch puts its peak at step 0.3 * 50 - 1 of 0 .. 49.
    peak = (0.3 * num_steps - 1) / (num_steps - 1)
    for number in range(num_steps):
        expected = optimizer.param_groups[0]["lr"]
        assert one_cycle(number / (num_steps - 1), peak=peak) == pytest.approx(expected, abs=1e-9)
        optimizer.step()
        if number < num_steps - 1:
            reference.step()


def test_step_drops_at_each_milestone() -> None:
    factors = [step(f, milestones=(0.5, 0.75), gamma=0.1) for f in (0.0, 0.49, 0.5, 0.74, 0.75, 1.0)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


@given(fraction=st.floats(0, 1), name=st.sampled_from(NAMES), warmup=st.floats(0, 1), peak=st.floats(0, 1))
def test_factors_stay_between_zero_and_one(fraction: float, name: str, warmup: float, peak: float) -> None:
    config = ScheduleConfig.model_validate({"name": name, "warmup": warmup, "peak": peak})
    assert -1e-12 <= config.factor(fraction) <= 1 + 1e-12


@pytest.mark.parametrize("bad", [{"warmup": 1.5}, {"gamma": 0}, {"name": "linear"}, {"milestones": [2.0]}])
def test_bad_settings_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ScheduleConfig.model_validate(bad)
