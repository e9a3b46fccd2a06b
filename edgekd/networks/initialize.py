"""Starting weights: every parameter drawn from its own stream, whatever the global random state is."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from edgekd.core.seed import derive

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def init_weights(module: nn.Module, seed: int, name: str) -> None:
    """Initialize all parameters and buffers in place; the stream of each is (seed, "init", name, its path).

    Convolutions: normal, variance 2 / fan_in (He et al. 2015, equation 10), bias 0. Linear layers: uniform in
    +-1 / sqrt(fan_in), torch's default. Norms: 1 and 0, statistics reset. Other parameters of two or more
    dimensions (attention, tokens, positions): normal with sd 0.02, cut at two sd (Dosovitskiy et al. 2021);
    other vectors keep the constants they were built with.
    """
    done: set[int] = set()
    with torch.no_grad():
        for path, layer in module.named_modules():
            stream = _Stream(seed, name, path)
            if isinstance(layer, _NORMS):
                layer.reset_parameters()
            elif isinstance(layer, nn.modules.conv._ConvNd):
                _convolution(layer, stream)
            elif isinstance(layer, nn.Linear):
                _linear(layer, stream)
            else:
                _other(layer, stream, done)
            done.update(id(p) for p in layer.parameters(recurse=False))


class _Stream:
    """Draws for the parameters of one layer."""

    def __init__(self, seed: int, name: str, path: str) -> None:
        self._names = (seed, name, path)

    def generator(self, parameter: str) -> torch.Generator:
        seed, name, path = self._names
        return torch.Generator().manual_seed(derive(seed, "init", name, f"{path}.{parameter}"))


def _convolution(layer: nn.modules.conv._ConvNd, stream: _Stream) -> None:
    fan_in = layer.weight[0].numel()
    _fill(
        layer.weight,
        torch.randn(layer.weight.shape, generator=stream.generator("weight")),
        (2 / fan_in) ** 0.5,
    )
    if layer.bias is not None:
        layer.bias.zero_()


def _linear(layer: nn.Linear, stream: _Stream) -> None:
    bound = 1 / math.sqrt(layer.in_features)
    for key, parameter in layer.named_parameters(recurse=False):
        _fill(parameter, torch.rand(parameter.shape, generator=stream.generator(key)) * 2 - 1, bound)


def _other(layer: nn.Module, stream: _Stream, done: set[int]) -> None:
    for key, parameter in layer.named_parameters(recurse=False):
        if parameter.dim() >= 2 and id(parameter) not in done:
            draws = torch.empty(parameter.shape)
            nn.init.trunc_normal_(draws, std=0.02, a=-0.04, b=0.04, generator=stream.generator(key))
            parameter.copy_(draws)


def _fill(parameter: Tensor, draws: Tensor, scale: float) -> None:
    parameter.copy_(draws * scale)
