"""What calibration sees of a tensor: a histogram whose range doubles when it must, and its percentiles."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_NUM_BINS = 8192


class HistogramObserver:
    """Counts the values of all batches in equal bins over [-limit, limit), `limit` a power of two.

    Doubling the limit merges bins in pairs, so no value is ever counted twice or moved by more than one bin;
    one pass over the data is enough, and nothing depends on the order of batches but the bin width.
    """

    def __init__(self) -> None:
        self.limit = 0.0
        self.counts = torch.zeros(_NUM_BINS, dtype=torch.float64)
        self.low = math.inf
        self.high = -math.inf

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Add the values of a tensor of any shape; raises `ValueError` where one is not finite."""
        low, high = (float(value) for value in torch.aminmax(x.detach().float()))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError("a value is not finite")
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen(max(-low, high))
        counts = torch.histc(x.detach().float(), _NUM_BINS, -self.limit, self.limit)
        self.counts += counts.to("cpu", torch.float64)

    def range(self, percentile: float) -> tuple[float, float]:
        """(low, high) between which `percentile` % of the values lie at either end; 100: minimum and maximum.

        At least [0, 0]: zero is always inside. Raises `ValueError` when nothing was observed.
        """
        total = float(self.counts.sum())
        if total == 0:
            raise ValueError("nothing was observed")
        outside = total * (1 - percentile / 100)
        width = 2 * self.limit / _NUM_BINS
        first = int(torch.searchsorted(self.counts.cumsum(0), outside, right=True))
        last = int(torch.searchsorted(self.counts.flip(0).cumsum(0), outside, right=True))
        low = max(self.low, -self.limit + first * width)
        high = min(self.high, self.limit - last * width)
        return min(0.0, low), max(0.0, high)

    def _widen(self, magnitude: float) -> None:
        needed = 2.0 ** math.ceil(math.log2(magnitude)) if magnitude > 0 else 2.0**-20
        if self.limit == 0:
            self.limit = needed
        while self.limit < needed:
            pairs = self.counts.view(-1, 2).sum(1)
            self.counts = torch.zeros_like(self.counts)
            self.counts[_NUM_BINS // 4 : 3 * _NUM_BINS // 4] = pairs
            self.limit *= 2
