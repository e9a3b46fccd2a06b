"""How a network is quantized, as plain data: what a recipe says and what a model's spec records."""

from __future__ import annotations

from pydantic import Field

from edgekd.core.config import Config


class QuantSettings(Config):
    """`weight_bits` 8 where every target has VNNI (or is not x86); 7 is exact on x86 without it, too."""

    profile: str = "ort_x86"
    weight_bits: int = Field(default=8, ge=2, le=8)
    percentile: float = Field(default=99.99, gt=50, le=100)
    """Share of the values, in %, that a quantizer's range covers at either end; 100 covers all."""
    learn_steps: bool = True
    """Whether training moves the step sizes; False keeps those of calibration."""
    float_modules: tuple[str, ...] = ()
    """Paths of modules that stay in float, with everything below them."""
