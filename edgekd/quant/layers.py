"""Convolution and linear layers whose weight passes through a quantizer, in training and as exported."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgekd.backends.onnx import operators  # noqa: F401  (registers torch.ops.edgekd)
from edgekd.backends.profile import BiasForm
from edgekd.quant.fake_quantization import ActivationQuantizer, WeightQuantizer

# Half of int32, so that bias plus products cannot overflow it.
_LARGEST_BIAS_CODE = 2.0**30


class QuantizedConv2d(nn.Conv2d):
    """`nn.Conv2d` with a quantized weight `[C_out, C_in / groups, H, W]`."""

    weight_quantizer: WeightQuantizer
    bias_form: BiasForm

    def forward(self, input: Tensor) -> Tensor:
        return cast(Tensor, self._conv_forward(input, self.weight_quantizer(self.weight), self.bias))


class QuantizedLinear(nn.Linear):
    """`nn.Linear` with a quantized weight `[C_out, C_in]`."""

    weight_quantizer: WeightQuantizer
    bias_form: BiasForm

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight_quantizer(self.weight), self.bias)


QuantizedLayer = QuantizedConv2d | QuantizedLinear


def quantized(layer: nn.Module, bits: int, bias_form: BiasForm, *, learn_step: bool) -> QuantizedLayer:
    """The same layer (it is changed in place, not copied), with a quantizer for its weight."""
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    new_class = QuantizedConv2d if isinstance(layer, nn.Conv2d) else QuantizedLinear
    # A new class on the same object keeps every setting of the layer, whichever torch version added it.
    layer.__class__ = new_class
    assert isinstance(layer, QuantizedConv2d | QuantizedLinear)
    layer.weight_quantizer = WeightQuantizer(layer.weight.shape[0], bits, learn_step=learn_step)
    layer.weight_quantizer.fit(layer.weight)
    layer.bias_form = bias_form
    return layer


def smallest_step(dtype: torch.dtype) -> float:
    """The smallest positive normal number: what is below, some devices take for zero."""
    return float(torch.finfo(dtype).smallest_normal)


@torch.no_grad()
def bias_codes(layer: QuantizedLayer, input_step: Tensor) -> tuple[Tensor, Tensor]:
    """(codes float32 `[C_out]`, step `[C_out]`) of the bias on the grid `input_step * weight_step`."""
    assert layer.bias is not None
    step = input_step * layer.weight_quantizer.bounded_step()
    return (layer.bias / step).round_(), step


@torch.no_grad()
def round_bias(layer: QuantizedLayer, input_step: Tensor) -> None:
    """Put the bias on its grid, as the int8 kernels do, so that torch and the artifact agree.

    A channel whose weights are all almost zero has a step so small that its bias would not fit into int32.
    Its weight step is raised until it does: beside such a bias its weights do not count.
    """
    if layer.bias is None:
        return
    quantizer = layer.weight_quantizer
    needed = layer.bias.abs() / (input_step * _LARGEST_BIAS_CODE)
    quantizer.step.copy_(torch.maximum(quantizer.bounded_step(), needed))
    codes, step = bias_codes(layer, input_step)
    layer.bias.copy_(codes * step)


class ExportedQuantizer(nn.Module):
    """An activation quantizer as one QuantizeLinear -> DequantizeLinear pair of the graph."""

    def __init__(self, quantizer: ActivationQuantizer) -> None:
        super().__init__()
        self.step = float(quantizer.bounded_step().detach())
        self.zero_point = int(quantizer.zero_point)
        self.low, self.high = quantizer.low, quantizer.high

    def convert(self, dtype: torch.dtype) -> None:
        """A step that is a number of another type."""
        self.step = max(float(torch.tensor(self.step, dtype=dtype)), smallest_step(dtype))

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.edgekd.qdq(x, self.step, self.zero_point, self.low, self.high)  # type: ignore[no-any-return]


class ExportedConstant(nn.Module):
    """Integers with their steps as one DequantizeLinear of the graph."""

    codes: Tensor
    step: Tensor
    zero_point: Tensor

    def __init__(self, codes: Tensor, step: Tensor) -> None:
        super().__init__()
        self.register_buffer("codes", codes)
        self.register_buffer("step", step.detach().clone())
        self.register_buffer("zero_point", torch.zeros_like(step, dtype=codes.dtype))

    @torch.no_grad()
    def convert(self, dtype: torch.dtype) -> None:
        """Steps of another type, and codes that say with those what they said before."""
        old, self.step = self.step, self.step.to(dtype).clamp_min(smallest_step(dtype))
        limits = torch.iinfo(self.codes.dtype)
        ratio = (old.double() / self.step.double()).view([-1] + [1] * (self.codes.ndim - 1))
        codes = (self.codes.double() * ratio).round_().clamp_(limits.min + 1, limits.max)
        self.codes = codes.to(self.codes.dtype)

    def forward(self) -> Tensor:
        return torch.ops.edgekd.dq(self.codes, self.step, self.zero_point)  # type: ignore[no-any-return]


class ExportedLayer(nn.Module):
    """A quantized layer with its weight as int8 and its bias in the form that the profile asks for.

    Takes `layer` over: it cannot be used by itself afterwards.
    """

    def __init__(self, layer: QuantizedLayer, input_step: Tensor) -> None:
        super().__init__()
        quantizer = layer.weight_quantizer
        self.weight = ExportedConstant(quantizer.codes(layer.weight), quantizer.bounded_step())
        self.bias = _exported_bias(layer, input_step)
        # Kept for its settings; its own float weight and bias must not reach the graph.
        self.layer = layer
        self.layer.register_parameter("weight", None)
        self.layer.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias() if isinstance(self.bias, ExportedConstant) else self.bias
        if isinstance(self.layer, nn.Conv2d):
            return cast(Tensor, self.layer._conv_forward(x, self.weight(), bias))
        return F.linear(x, self.weight(), bias)


def _exported_bias(layer: QuantizedLayer, input_step: Tensor) -> ExportedConstant | Tensor | None:
    if layer.bias is None or layer.bias_form == "grid":
        return layer.bias
    codes, step = bias_codes(layer, input_step)
    return ExportedConstant(codes.to(torch.int32), step)
