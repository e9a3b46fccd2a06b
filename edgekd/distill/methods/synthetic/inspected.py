"""A network that also tells what went into its batch norms."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from edgekd.core.errors import UsageError
from edgekd.distill.participant import Participant, in_full_precision
from edgekd.networks.tap import Tap

MOMENTS = "moments"
"""Tap [B, 2 K]: per image the means over positions of (input - running mean) for all K channels of all batch
norms, then the means of its square."""
Moments = tuple[Tensor, Tensor]


class Inspected(nn.Module):
    """A network run as it is; an identity at its end passes the moments on, so that they can be tapped."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.moments = nn.Identity()

    @property
    def norms(self) -> list[_BatchNorm]:
        """The batch norms that have running statistics."""
        found = [module for module in self.network.modules() if isinstance(module, _BatchNorm)]
        return [norm for norm in found if norm.running_mean is not None]

    @property
    def sizes(self) -> list[int]:
        """Channels of every batch norm; they sum to K."""
        return [norm.num_features for norm in self.norms]

    @property
    def variances(self) -> Tensor:
        """[K] running variances."""
        return torch.cat([cast(Tensor, norm.running_var) for norm in self.norms])

    def forward(self, x: Tensor) -> Tensor:
        seen: dict[int, Moments] = {}
        with self._watching(seen):
            logits: Tensor = self.network(x)
        parts = [seen.get(number) or _silent(norm, len(x)) for number, norm in enumerate(self.norms)]
        first, second = zip(*parts, strict=True)
        self.moments(torch.cat([*first, *second], dim=1))
        return logits

    @contextmanager
    def _watching(self, seen: dict[int, Moments]) -> Iterator[None]:
        # Hooks of this forward pass only: a copied module would keep those of its original.
        handles = [_watch(number, norm, seen) for number, norm in enumerate(self.norms)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _watch(number: int, norm: _BatchNorm, seen: dict[int, Moments]) -> RemovableHandle:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values = in_full_precision(inputs[0]).flatten(2) if inputs[0].dim() > 2 else inputs[0][:, :, None]
        # Around the running mean a small variance does not drown in the square of a large mean.
        centered = values - cast(Tensor, norm.running_mean)[:, None]
        seen[number] = centered.mean(dim=2), centered.square().mean(dim=2)

    return norm.register_forward_pre_hook(hook)


def _silent(norm: _BatchNorm, num_images: int) -> Moments:
    """The moments of a batch norm that the forward pass leaves out: those that match its statistics."""
    variance = cast(Tensor, norm.running_var).expand(num_images, -1)
    return torch.zeros_like(variance), variance


def inspected(participant: Participant) -> Participant:
    """The same network with the further tap `moments`, and no other but its logits.

    Raises `UsageError` for a network without batch norms that keep running statistics.
    """
    module = Inspected(participant.module)
    if not module.norms:
        raise UsageError(
            "the teacher has no batch norm with running statistics (or they were folded into its "
            "convolutions), and these are what its training images are recovered from",
            fix="take a teacher with batch norms, or the method `dafl`, which needs none",
        )
    return replace(participant, module=module, taps={MOMENTS: Tap(MOMENTS)})
