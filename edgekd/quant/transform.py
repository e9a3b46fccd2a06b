"""Quantization as a transform of a model's spec: its record, and the rebuilding from it."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from torch import nn

from edgekd.core.errors import ModelError
from edgekd.networks.transforms import KEY
from edgekd.quant.prepare import quantized_copy
from edgekd.quant.quantized_module import QuantizedModule
from edgekd.quant.settings import QuantSettings

NAME = "quantize"
"""As registered in `edgekd.networks.transforms`."""


def transform_record(module: QuantizedModule) -> dict[str, Any]:
    """The entry of `ModelSpec.transforms` from which `apply` rebuilds the structure of `module`."""
    return {KEY: NAME, **module.settings.model_dump(mode="json")}


def apply(module: nn.Module, record: dict[str, Any]) -> QuantizedModule:
    """The structure that `record` describes, ready for a strict load of the quantized weights.

    Raises `ModelError` for a record that is not one of `QuantSettings`.
    """
    try:
        settings = QuantSettings.model_validate({key: value for key, value in record.items() if key != KEY})
    except ValidationError as error:
        raise ModelError(f"not a record of quantization: {error}") from error
    return quantized_copy(module, settings)
