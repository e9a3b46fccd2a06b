"""The exponential moving average of a network's parameters and buffers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from edgekd.core.errors import ModelError, UsageError


class Ema:
    """After each `update`: average = d * average + (1 - d) * value, for floating values; others are copied.

    d is `decay`, but at most (1 + n) / (10 + n) at the n-th update, so short trainings forget the start
    weights too (TensorFlow's `ExponentialMovingAverage` with `num_updates`). Batch-norm statistics are
    averaged as well. Raises `UsageError` for a decay outside [0, 1).
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise UsageError(f"the decay of a moving average must be in [0, 1), not {decay}")
        self.decay = decay
        self.num_updates = 0
        self._module = module
        self._average = {key: value.detach().clone() for key, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the module's present values; call it after every optimizer step."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        for key, value in self._module.state_dict().items():
            average = self._average[key]
            if average.is_floating_point():
                average.lerp_(value.to(average), 1 - decay)
            else:
                average.copy_(value)

    def average(self) -> dict[str, Tensor]:
        """The averages by name, as `module.state_dict()` has them."""
        return self._average

    @contextmanager
    def applied(self) -> Iterator[nn.Module]:
        """The module holds the averages while entered, its own values again after."""
        own = {key: value.detach().clone() for key, value in self._module.state_dict().items()}
        self._module.load_state_dict(self._average)
        try:
            yield self._module
        finally:
            self._module.load_state_dict(own)

    def state(self) -> dict[str, object]:
        return {"average": self._average, "num_updates": self.num_updates}

    def load_state(self, state: Mapping[str, object]) -> None:
        """Raises `ModelError` when the averages are of another network."""
        average, num_updates = state["average"], state["num_updates"]
        if not isinstance(average, dict) or average.keys() != self._average.keys():
            raise ModelError("the moving average was taken of another network")
        assert isinstance(num_updates, int)
        for key, value in average.items():
            self._average[key].copy_(value)
        self.num_updates = num_updates
