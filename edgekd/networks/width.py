"""Channel counts under a width factor, rounded to what kernels like."""

from __future__ import annotations

from edgekd.core.errors import ModelError


def scaled(channels: int, width: float, divisor: int) -> int:
    """`channels * width` rounded to the nearest multiple of `divisor`, at least `divisor`.

    Never below 90 % of the exact value (MobileNetV2's reference code, `_make_divisible`).
    Raises `ModelError` for a width or divisor that is not positive.
    """
    if width <= 0 or divisor < 1:
        raise ModelError(f"width and divisor must be positive, not {width} and {divisor}")
    exact = channels * width
    rounded = max(divisor, int(exact + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * exact else rounded + divisor
