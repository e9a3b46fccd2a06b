"""Defects of quantization: steps, ranges and the kernels of the processor."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from planted import spoil
from planted.running import VICTIM, Outcome, Place, audited, defect
from planted.zoo import Net, built


def _has_vnni() -> str | None:
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return "this processor has VNNI, so nothing saturates" if "vnni" in flags else None


BRIGHT = Net(data="bright", binary=True, mean=(0.0,), std=(1.0,))
"""Bright images, and filters whose weights are all as large as the largest: what saturates."""


@defect("accuracy", skip=_has_vnni)
def saturating_integers(place: Place) -> Outcome:
    """Eight-bit weights on a processor whose 16-bit sums of two products overflow."""
    return audited(place, spoil.quantized(BRIGHT, bits=8), net=BRIGHT)


@defect("accuracy")
def quantization_step_off(place: Place) -> Outcome:
    graph = spoil.quantized(VICTIM, act_factor=200.0)
    return audited(place, graph)


@defect("accuracy")
def clipped_range(place: Place) -> Outcome:
    """Calibrated on what reaches a tenth of the range."""
    return audited(place, spoil.quantized(VICTIM, act_share=0.1))


@defect("accuracy")
def per_tensor_instead_of_per_channel(place: Place) -> Outcome:
    """Filters of very different size share one step, so that the small ones become zero."""
    graph = built(VICTIM)
    sizes = np.ones(VICTIM.width, np.float32)
    sizes[: VICTIM.width // 2 + 6] = 1e-3
    graph.weights["w0"] = graph.weights["w0"] * sizes[:, None, None, None]
    graph.weights["b0"] = graph.weights["b0"] * sizes
    each = np.repeat(1 / sizes, VICTIM.grid**2)
    graph.weights["fc"] = graph.weights["fc"] * each
    return audited(place, spoil.quantized(VICTIM, bits=8, per_channel=False, graph=graph))


@defect("accuracy")
def two_bits_instead_of_seven(place: Place) -> Outcome:
    return audited(place, spoil.quantized(VICTIM, bits=2))
