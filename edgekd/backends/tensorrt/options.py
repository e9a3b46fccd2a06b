"""What a recipe may ask of an export to TensorRT."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edgekd.core.config import Config


class TensorrtOptions(Config):
    """The keys below `options: {tensorrt: ...}`."""

    float_layers: Literal["fp32", "fp16"] = Field(
        "fp32", description="what an INT8 model computes in where it does not compute in integers"
    )
