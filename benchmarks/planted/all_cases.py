"""Every case, in the order in which they run."""

from planted import comparisons, defects, descriptions, devices, images, integers, sound, tampering
from planted.running import CASES

__all__ = [
    "CASES",
    "comparisons",
    "defects",
    "descriptions",
    "devices",
    "images",
    "integers",
    "sound",
    "tampering",
]
