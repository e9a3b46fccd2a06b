"""Exported integers whose steps are of half precision say what they said in float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgekd.backends.profile import Grid
from edgekd.quant.fake_quantization import ActivationQuantizer
from edgekd.quant.layers import ExportedConstant, ExportedQuantizer, smallest_step

SMALLEST = 2.0**-14
"""The smallest normal number of IEEE 754 half precision."""


def converted(step: float, values: range = range(-127, 128)) -> tuple[ExportedConstant, np.ndarray]:
    """One channel with these codes in half precision, and what they said before, in float64."""
    codes = torch.tensor([*values], dtype=torch.int8)[None]
    constant = ExportedConstant(codes, torch.tensor([step]))
    before = codes.double().numpy() * np.float32(step).astype(np.float64)
    constant.convert(torch.float16)
    return constant, before


def after(constant: ExportedConstant) -> np.ndarray:
    return np.asarray(constant.codes.double().numpy() * constant.step.double().numpy())


@pytest.mark.parametrize("step", [0.0123, 0.5, 1e-3, 7e-5, 3.0])
def test_codes_stay_where_half_precision_can_tell_the_step(step: float) -> None:
    constant, before = converted(step)
    assert constant.step.dtype == torch.float16
    assert float(constant.step) == np.float16(step)
    assert constant.codes[0].tolist() == [*range(-127, 128)]
    assert np.abs(after(constant) - before).max() <= 2.0**-11 * np.abs(before).max() * 1.0001


@pytest.mark.parametrize("step", [3e-5, 1e-6, 1e-9])
def test_codes_are_rounded_anew_on_the_smallest_step(step: float) -> None:
    constant, before = converted(step)
    assert float(constant.step) == SMALLEST == smallest_step(torch.float16)
    assert np.abs(after(constant) - before).max() <= SMALLEST / 2 * 1.0001


def test_float32_changes_nothing() -> None:
    codes = torch.randint(-127, 128, (4, 3, 3, 3), dtype=torch.int8)
    constant = ExportedConstant(codes, torch.rand(4) + 1e-3)
    steps = constant.step.clone()
    constant.convert(torch.float32)
    assert torch.equal(constant.codes, codes) and torch.equal(constant.step, steps)


@pytest.mark.parametrize(("step", "expected"), [(0.1, float(np.float16(0.1))), (1e-7, SMALLEST)])
def test_a_quantizers_step_is_a_half_number(step: float, expected: float) -> None:
    quantizer = ActivationQuantizer(Grid(low=-128, high=127, zero_point=0))
    with torch.no_grad():
        quantizer.step.fill_(step)
    exported = ExportedQuantizer(quantizer)
    exported.convert(torch.float16)
    assert exported.step == expected
    x = torch.linspace(-3, 3, 41, dtype=torch.float16)
    found = exported(x)
    assert found.dtype == torch.float16
    codes = np.clip(np.round(x.double().numpy() / expected), -128, 127)
    assert np.abs(found.double().numpy() - codes * expected).max() <= expected + 2.0**-10 * 3
