"""Quantize-dequantize in training: learned step sizes, and the modules that hold them.

Learned Step Size Quantization: Esser et al., ICLR 2020, arXiv 1902.08153. The forward pass is the arithmetic
of ONNX QuantizeLinear -> DequantizeLinear (division, half to even), so a trained network and its exported
graph compute the same.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from edgekd.backends.profile import Grid
from edgekd.quant.observer import HistogramObserver

SMALLEST_STEP = 1e-8


class LearnedStep(torch.autograd.Function):
    """Equations 1-3 of the paper, with a zero point z and v = x / step.

        forward    (clamp(round(v) + z, low, high) - z) * step
        d/dx       1 where low - z < v < high - z, else 0
        d/dstep    round(v) - v inside; low - z below; high - z above; times `gradient_scale`

    A Function and not a chain of tensor operations: the gradient scaling `s * g + (s - s * g).detach()` of
    other code moves the step by one unit in the last place, and then training and export differ.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        step: Tensor,
        zero_point: Tensor | int,
        low: int,
        high: int,
        gradient_scale: float,
    ) -> Tensor:
        """x: any shape; step: broadcastable to x, float32; zero_point: 0 or int32 `[]`."""
        ctx.save_for_backward(x, step)
        ctx.zero_point, ctx.low, ctx.high, ctx.gradient_scale = zero_point, low, high, gradient_scale
        codes = (x / step).round_().add_(zero_point).clamp_(low, high)
        return codes.sub_(zero_point).mul_(step)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, step = ctx.saved_tensors
        low, high = ctx.low - ctx.zero_point, ctx.high - ctx.zero_point
        v = x / step
        inside = (v > low) & (v < high)
        step_gradient = None
        if ctx.needs_input_grad[1]:
            slope = v.clamp(low, high).round_().sub_(v.mul_(inside))
            step_gradient = slope.mul_(gradient).sum_to_size(step.shape).mul_(ctx.gradient_scale)
        return gradient * inside, step_gradient, None, None, None, None


def fake_quantize(
    x: Tensor, step: Tensor, zero_point: Tensor | int, low: int, high: int, gradient_scale: float
) -> Tensor:
    """`LearnedStep` in float32, whatever autocast does around it."""
    out = LearnedStep.apply(x.float(), step, zero_point, low, high, gradient_scale)
    return cast(Tensor, out)


class Bounded(torch.autograd.Function):
    """Clamp whose gradient passes unchanged, so that a step at its bound can still come back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, None, None]:
        return gradients[0], None, None


class ActivationQuantizer(nn.Module):
    """One step and one zero point for a whole tensor. While `observer` is set, values pass and are counted.

    `ceiling` is a bound that the tensor cannot exceed (6 behind a ReLU6): the largest code then never stands
    for more, without which ONNX Runtime keeps the Clip.
    """

    zero_point: Tensor

    def __init__(self, grid: Grid, *, ceiling: float | None = None, learn_step: bool = True) -> None:
        super().__init__()
        self.low, self.high, self.fixed_zero_point = grid.low, grid.high, grid.zero_point
        self.largest_step = math.inf if ceiling is None else _largest_step(ceiling, grid.high)
        self.step = nn.Parameter(torch.tensor(1.0), requires_grad=learn_step)
        self.register_buffer("zero_point", torch.tensor(grid.zero_point or 0, dtype=torch.int32))
        self.observer: HistogramObserver | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.observer is not None:
            self.observer.observe(x)
            return x
        # g = 1 / sqrt(N * Q_P): N values per image (paper, section 2.2).
        scale = 1 / math.sqrt(max(1, x[0].numel()) * self.high)
        return fake_quantize(x, self.bounded_step(), self.zero_point, self.low, self.high, scale)

    def bounded_step(self) -> Tensor:
        """The step in use, `[]`: positive and not above what `ceiling` allows."""
        step = Bounded.apply(self.step, SMALLEST_STEP, self.largest_step)
        return cast(Tensor, step)

    @torch.no_grad()
    def set_range(self, low: float, high: float) -> None:
        """Step and zero point with which the codes cover [low, high]; zero is always a code."""
        low, high = min(low, 0.0), max(high, 0.0)
        if self.fixed_zero_point is None:
            step = max((high - low) / (self.high - self.low), SMALLEST_STEP)
            self.zero_point.fill_(max(self.low, min(self.high, self.low + round(-low / step))))
        else:
            above, below = self.high - self.fixed_zero_point, self.fixed_zero_point - self.low
            step = max(high / above, -low / below if below else 0.0, SMALLEST_STEP)
        self.step.fill_(min(step, self.largest_step))

    def extra_repr(self) -> str:
        return f"{self.low}..{self.high}, zero_point={int(self.zero_point)}, step={float(self.step):.3g}"


class WeightQuantizer(nn.Module):
    """Symmetric codes with one learned step per output channel. While `enabled` is false, weights pass."""

    def __init__(self, num_channels: int, bits: int, *, learn_step: bool = True) -> None:
        super().__init__()
        self.high = largest_weight_code(bits)
        self.step = nn.Parameter(torch.ones(num_channels), requires_grad=learn_step)
        self.enabled = True

    def forward(self, weight: Tensor) -> Tensor:
        """weight: `[C_out, ...]`."""
        if not self.enabled:
            return weight
        step = self.bounded_step().view([-1] + [1] * (weight.ndim - 1))
        scale = 1 / math.sqrt(weight[0].numel() * self.high)
        return fake_quantize(weight, step, 0, -self.high, self.high, scale)

    def bounded_step(self) -> Tensor:
        """The steps in use, `[C_out]`."""
        step = Bounded.apply(self.step, SMALLEST_STEP, math.inf)
        return cast(Tensor, step)

    @torch.no_grad()
    def fit(self, weight: Tensor) -> None:
        """Steps whose largest code is each channel's largest weight.

        The paper starts from 2 mean|w| / sqrt(Q_P), which clips; at 7 and 8 bits not clipping starts closer
        to the float network.
        """
        largest = weight.detach().flatten(1).abs().amax(1)
        self.step.copy_((largest / self.high).clamp_min(SMALLEST_STEP))

    @torch.no_grad()
    def codes(self, weight: Tensor) -> Tensor:
        """The int8 codes of a weight, same shape."""
        step = self.bounded_step().view([-1] + [1] * (weight.ndim - 1))
        return (weight / step).round_().clamp_(-self.high, self.high).to(torch.int8)


def largest_weight_code(bits: int) -> int:
    """The largest code of a symmetric weight; codes are stored as int8.

    7 bits mean |code| <= 64 and not 63: the bound under which x86 without VNNI is exact, because
    `vpmaddubsw` adds two products of a uint8 and an int8 in saturating int16, and 2 * 255 * 64 <= 32767.
    """
    return 64 if bits == 7 else 2 ** (bits - 1) - 1


def _largest_step(ceiling: float, high: int) -> float:
    """The largest float32 step whose code `high` does not exceed `ceiling` in float32 arithmetic."""
    step = np.float32(ceiling) / np.float32(high)
    while step * np.float32(high) > np.float32(ceiling):
        step = np.nextafter(step, np.float32(0))
    return float(step)
