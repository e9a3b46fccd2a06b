"""What a recipe may ask of an export to ONNX."""

from __future__ import annotations

from pydantic import Field

from edgekd.core.config import Config


class OnnxOptions(Config):
    """The keys below `options: {onnx: ...}`."""

    bake_preprocess: bool = Field(
        False, description="the graph takes uint8 pixels [batch, H, W, C] and normalizes them itself"
    )
