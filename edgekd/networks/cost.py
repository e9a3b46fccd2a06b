"""What a network costs before anything is measured: parameters and multiply-accumulates."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_COUNTED = (nn.modules.conv._ConvNd, nn.Linear)


@dataclass(frozen=True)
class Cost:
    """`num_macs` is for one image, convolutions and linear layers only, biases left out."""

    num_parameters: int
    num_macs: int


def count(module: nn.Module, input_shape: tuple[int, int, int]) -> Cost:
    """The cost of one image of `input_shape` (C, H, W). The pass is on the meta device: no arithmetic."""
    shadow = copy.deepcopy(module).to("meta").eval()
    macs: list[int] = []

    def add(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        macs.append(_macs(layer, output))

    for layer in shadow.modules():
        if isinstance(layer, _COUNTED):
            layer.register_forward_hook(add)
    with torch.no_grad():
        shadow(torch.empty(1, *input_shape, device="meta"))
    return Cost(sum(p.numel() for p in module.parameters()), sum(macs))


def _macs(layer: nn.Module, output: Tensor) -> int:
    if isinstance(layer, nn.Linear):
        return output.numel() * layer.in_features
    # Each output value of a convolution sums over one filter: in_channels / groups x kernel.
    assert isinstance(layer, nn.modules.conv._ConvNd)
    return output.numel() * layer.weight[0].numel()
