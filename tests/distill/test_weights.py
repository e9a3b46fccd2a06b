"""Weight schedules at their ends and between."""

from __future__ import annotations

import math

import pytest

from edgekd.distill.weights import Linear, RampUp, Until, weight_at


def test_a_number_stays() -> None:
    assert weight_at(3.0, 0.7) == 3.0


def test_linear_goes_from_start_to_end() -> None:
    assert [weight_at(Linear(4, 1), fraction) for fraction in (0.0, 0.5, 1.0)] == [4.0, 2.5, 1.0]


def test_ramp_up_is_the_gaussian_of_laine_and_aila() -> None:
    ramp = RampUp(2.0, over=0.5)
    assert ramp(0.0) == pytest.approx(2 * math.exp(-5))
    assert ramp(0.25) == pytest.approx(2 * math.exp(-5 * 0.25))
    assert ramp(0.5) == ramp(0.9) == 2.0


def test_until_stops() -> None:
    assert [Until(2.0, 0.5)(fraction) for fraction in (0.0, 0.49, 0.5)] == [2.0, 2.0, 0.0]
