"""Settings of training-time augmentation, as plain data (the tensor code is in `edgekd.data.augment`)."""

from __future__ import annotations

from pydantic import Field

from edgekd.core.config import Config


class Augment(Config):
    """Random changes to each training image; everything is off by default."""

    flip: bool = Field(False, description="Mirror left to right with probability 1/2.")
    flip_vertical: bool = Field(
        False, description="Mirror top to bottom with probability 1/2 (aerial or microscope images)."
    )
    shift: int = Field(
        0, ge=0, description="Move by up to this many pixels each way, filling with black (pad and crop)."
    )
    rotate_degrees: float = Field(0.0, ge=0, le=180, description="Rotate by up to this angle each way.")
    scale: float = Field(
        0.0, ge=0, le=4, description="Zoom by a factor drawn log-uniformly from 1/(1+scale) to 1+scale."
    )
    brightness: float = Field(0.0, ge=0, le=1, description="Multiply by a factor from 1-b to 1+b.")
    contrast: float = Field(
        0.0, ge=0, le=1, description="Stretch around the image's mean by a factor from 1-c to 1+c."
    )
    cutout: int = Field(0, ge=0, description="Side in pixels of one square that is blanked to mid gray.")
