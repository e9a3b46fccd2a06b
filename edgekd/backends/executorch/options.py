"""What a recipe may ask of an export to ExecuTorch."""

from __future__ import annotations

from pydantic import Field

from edgekd.core.config import Config


class ExecutorchOptions(Config):
    """The keys below `options: {executorch: ...}`."""

    allow_outside: bool = Field(
        False,
        description="what XNNPACK does not take runs in ExecuTorch's portable kernels, which are slow",
    )
