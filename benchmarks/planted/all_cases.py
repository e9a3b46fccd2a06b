"""Every case, in the order in which they run."""

from planted import comparisons, defects, devices, images, integers, sound, tampering
from planted.running import CASES

__all__ = ["CASES", "comparisons", "defects", "devices", "images", "integers", "sound", "tampering"]
