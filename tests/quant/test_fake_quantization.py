"""The arithmetic of quantize-dequantize and the gradients of its learned step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from edgekd.backends.onnx import operators
from edgekd.backends.profile import Grid
from edgekd.quant.fake_quantization import (
    ActivationQuantizer,
    WeightQuantizer,
    fake_quantize,
    largest_weight_code,
)

UNSIGNED = Grid(low=0, high=255, zero_point=0)
AFFINE = Grid(low=0, high=255)


def paper(
    x: np.ndarray, step: float, zero: int, low: int, high: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Esser et al. 2020, equations 1, 2 (value), 5 (d/dx) and 3 (d/dstep), in float64."""
    value, by_x, by_step = np.empty_like(x), np.empty_like(x), np.empty_like(x)
    for index, v in np.ndenumerate(x / step):
        below, above = v <= low - zero, v >= high - zero
        code = low - zero if below else high - zero if above else round(float(v))
        value[index] = code * step
        by_x[index] = 0.0 if below or above else 1.0
        by_step[index] = code if below or above else code - v
    return value, by_x, by_step


def quantizer(grid: Grid, low: float, high: float, ceiling: float | None = None) -> ActivationQuantizer:
    result = ActivationQuantizer(grid, ceiling=ceiling)
    result.set_range(low, high)
    return result


@pytest.mark.parametrize(("zero", "low", "high"), [(0, 0, 255), (0, -64, 64), (101, 0, 255), (0, -8, 7)])
def test_value_and_gradients_follow_the_paper(zero: int, low: int, high: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 3, (4, 5, 6)).astype(np.float32)
    step = torch.tensor(0.037, requires_grad=True)
    inputs = torch.tensor(x, requires_grad=True)
    upstream = torch.tensor(rng.normal(size=x.shape).astype(np.float32))
    out = fake_quantize(inputs, step, zero, low, high, 0.25)
    out.backward(upstream)
    value, by_x, by_step = paper(x.astype(np.float64), float(step.detach()), zero, low, high)
    np.testing.assert_allclose(out.detach().numpy(), value, rtol=1e-6, atol=1e-6)
    assert inputs.grad is not None and step.grad is not None
    np.testing.assert_allclose(inputs.grad.numpy(), upstream.numpy() * by_x, rtol=1e-6)
    np.testing.assert_allclose(
        step.grad.item(), 0.25 * (upstream.numpy().astype(np.float64) * by_step).sum(), rtol=1e-4
    )


def test_step_gradient_is_the_slope_where_codes_do_not_change() -> None:
    """Outside the range the value is code * step, so a finite difference is the true derivative."""
    x = torch.tensor([-9.0, 9.0, 20.0])
    step = torch.tensor(0.01, requires_grad=True)
    fake_quantize(x, step, 0, -64, 64, 1.0).sum().backward()
    at = [float(fake_quantize(x, torch.tensor(s), 0, -64, 64, 1.0).sum()) for s in (0.009, 0.011)]
    assert step.grad is not None
    assert step.grad.item() == pytest.approx((at[1] - at[0]) / 0.002, rel=1e-3)


def test_input_gradient_passes_straight_through_as_if_rounding_were_absent() -> None:
    x = torch.linspace(-0.5, 0.5, 11, requires_grad=True)
    fake_quantize(x, torch.tensor(0.01), 0, -64, 64, 1.0).sum().backward()
    assert x.grad is not None and torch.equal(x.grad, torch.ones(11))


def test_step_gradients_of_a_weight_stay_in_their_channel() -> None:
    weights = WeightQuantizer(2, 8)
    weight = torch.randn(2, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    weights.fit(weight)
    weights(weight)[0].sum().backward()
    assert weights.step.grad is not None
    assert weights.step.grad[0] != 0 and weights.step.grad[1] == 0


def test_gradient_scale_does_not_move_the_value() -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    step = torch.tensor(0.0123)
    values = [fake_quantize(x, step, 0, -127, 127, g) for g in (1.0, 1e-3, 0.37)]
    assert all(torch.equal(value, values[0]) for value in values)


@pytest.mark.parametrize("grid", [UNSIGNED, AFFINE, Grid(low=-128, high=127, zero_point=0)])
def test_training_and_exported_operator_agree_bit_for_bit(grid: Grid) -> None:
    module = quantizer(grid, -1.3, 2.7)
    x = 2 * torch.randn(50_000, generator=torch.Generator().manual_seed(0)).view(2, -1)
    step, zero = float(module.bounded_step().detach()), int(module.zero_point)
    assert torch.equal(module(x), operators.qdq(x, step, zero, grid.low, grid.high))


def test_quantizing_twice_changes_nothing() -> None:
    module = quantizer(AFFINE, -1.3, 2.7)
    once = module(2 * torch.randn(50_000).view(2, -1))
    assert torch.equal(module(once), once)


@pytest.mark.parametrize(("low", "high"), [(-1.3, 2.7), (0.0, 5.0), (0.5, 5.0), (-3.0, -1.0), (0.0, 0.0)])
@pytest.mark.parametrize("grid", [UNSIGNED, AFFINE, Grid(low=-128, high=127, zero_point=0)])
def test_zero_is_exact_whatever_the_range(grid: Grid, low: float, high: float) -> None:
    module = quantizer(grid, low, high)
    assert module(torch.zeros(1, 3)).abs().max() == 0
    assert grid.low <= int(module.zero_point) <= grid.high


def test_range_is_covered_to_half_a_step() -> None:
    module = quantizer(AFFINE, -1.3, 2.7)
    x = torch.linspace(-1.3, 2.7, 1001).view(1, -1)
    assert (module(x) - x).abs().max() <= 0.5001 * (4.0 / 255)


def test_largest_code_never_stands_for_more_than_the_ceiling() -> None:
    module = quantizer(UNSIGNED, 0.0, 6.0, ceiling=6.0)
    module.step.data.fill_(1.0)  # training moved it
    step = module.bounded_step().detach().numpy()
    assert np.float32(255) * step <= np.float32(6)
    assert np.float32(255) * step == pytest.approx(6, rel=1e-6)


def test_step_at_its_bound_still_learns() -> None:
    module = quantizer(UNSIGNED, 0.0, 6.0, ceiling=6.0)
    module.step.data.fill_(-1.0)
    module(torch.rand(1, 100)).sum().backward()
    assert module.step.grad is not None and module.step.grad != 0


def test_result_is_float32_under_autocast() -> None:
    module = quantizer(AFFINE, -1.0, 1.0)
    with torch.autocast("cpu", torch.bfloat16):
        assert module(torch.ones(1, 3, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize("bits", [2, 4, 7, 8])
def test_weight_codes_reach_their_bound_and_fit_int8(bits: int) -> None:
    weights = WeightQuantizer(3, bits)
    weight = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    weights.fit(weight)
    codes = weights.codes(weight)
    assert codes.dtype == torch.int8
    assert codes.abs().amax(1).tolist() == [largest_weight_code(bits)] * 3
    restored = operators.dq(codes, weights.step.detach(), torch.zeros(3, dtype=torch.int8))
    assert torch.equal(restored, weights(weight))


def test_seven_bit_products_cannot_saturate_int16() -> None:
    """vpmaddubsw adds two products of a uint8 with an int8; 8-bit weights overflow it."""
    assert 2 * 255 * largest_weight_code(7) <= 2**15 - 1 < 2 * 255 * largest_weight_code(8)


def test_channel_of_zeros_stays_zero_and_finite() -> None:
    weights = WeightQuantizer(2, 8)
    weight = torch.stack([torch.zeros(4), torch.ones(4)])
    weights.fit(weight)
    assert torch.equal(weights(weight), weight)
    assert math.isfinite(float(weights.step.min().detach()))


def test_gradient_scale_is_that_of_the_paper() -> None:
    """g = 1 / sqrt(N Q_P) with N values per image: ten equal images give ten times the gradient of one."""
    gradients: list[Tensor] = []
    for count in (1, 10):
        module = quantizer(UNSIGNED, 0.0, 1.0)
        x = torch.rand(1, 7, generator=torch.Generator().manual_seed(0)).expand(count, 7)
        module(x).sum().backward()
        assert module.step.grad is not None
        gradients.append(module.step.grad)
    x64 = torch.rand(1, 7, generator=torch.Generator().manual_seed(0)).double().numpy()
    _, _, by_step = paper(x64, float(module.step.detach()), 0, 0, 255)
    assert gradients[0].item() == pytest.approx(by_step.sum() / math.sqrt(7 * 255), rel=1e-4)
    assert gradients[1].item() == pytest.approx(10 * gradients[0].item(), rel=1e-5)
