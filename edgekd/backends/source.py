"""What every exporter is given: a model in evaluation mode, and what is wanted of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import nn

Precision = Literal["fp32", "fp16", "bf16", "int8"]


@dataclass(frozen=True)
class Source:
    """A model to be exported as one artifact."""

    module: nn.Module
    """In evaluation mode; with quantizers of its own (`exportable()`) where int8 was trained."""
    input_shape: tuple[int, int, int]
    """`(C, H, W)` of one image."""
    precision: Precision = "fp32"
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Labels, preprocessing and the like, for formats that have a place for them."""
    calibration: Callable[[], Iterator[npt.NDArray[np.float32]]] | None = None
    """Preprocessed training images `[N, C, H, W]`, for a converter that chooses integers itself, and for what
    the exported file is compared on."""

    options: Mapping[str, Any] = field(default_factory=dict)
    """Of this backend alone, as its `Backend.options` has them; absent ones have their defaults."""

    def facts(self) -> dict[str, Any]:
        """What every artifact made of it has in common."""
        return {"precision": self.precision, "input": ["batch", *self.input_shape]}
