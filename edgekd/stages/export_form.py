"""In which form a model goes to a backend: as it was trained, or quantized anew as that runtime wants it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgekd.backends.backend import Backend
from edgekd.backends.source import Precision, Source
from edgekd.core.errors import ModelError
from edgekd.networks.model import Model
from edgekd.quant.placing_anew import placed_anew, unquantized
from edgekd.quant.quantized_module import QuantizedModule
from edgekd.stages.context import StageContext
from edgekd.stages.model_files import evaluation_arrays

Int8Form = Literal["trained", "re-calibrated", "native-ptq"]
_BATCH = 64


@dataclass(frozen=True)
class Form:
    """What is exported, and the model in torch that the exported file must agree with."""

    source: Source
    model: Model
    int8: Int8Form | None
    """`trained`: integers and steps of the quantized student; `re-calibrated`: its integers, with activations
    quantized where this runtime wants them; `native-ptq`: its float weights, quantized by the converter."""


def form_for(
    context: StageContext, model: Model, backend: Backend, precision: Precision | Literal["own"] = "own"
) -> Form:
    """The model as `backend` takes it; a float one in `precision`.

    Raises `ModelError` and `DataError` for a quantized one that cannot be placed anew.
    """
    module, images = model.module, _calibration(context, model)
    if not isinstance(module, QuantizedModule):
        wanted: Precision = "fp32" if precision == "own" else precision
        return Form(replace(source_of(model), precision=wanted, calibration=images), model, None)
    if "int8" not in backend.precisions:
        raise ModelError(f"{backend.name} has no INT8, and this model is quantized", where=backend.title)
    if module.settings.profile in backend.profiles:
        return Form(replace(source_of(model), precision="int8", calibration=images), model, "trained")
    if backend.profiles:
        placed = Model(model.spec, _placed(context, model, module, backend.profiles[0]), model.files_root)
        source = replace(source_of(placed), precision="int8", calibration=images)
        return Form(source, placed, "re-calibrated")
    floating = Model(model.spec, unquantized(module), model.files_root)
    source = replace(source_of(floating), precision="int8", calibration=images)
    return Form(source, floating, "native-ptq")


def source_of(model: Model) -> Source:
    """The model as exporters take it, with what its user must know in the metadata."""
    preprocess = model.spec.preprocess
    height, width = preprocess.size
    return Source(
        model.module,
        (model.spec.network.in_channels, height, width),
        metadata={
            "labels": json.dumps(model.spec.labels, ensure_ascii=False),
            "layout": "NCHW",
            "preprocess": preprocess.model_dump_json(),
        },
    )


def _placed(context: StageContext, model: Model, module: QuantizedModule, profile: str) -> QuantizedModule:
    import torch

    batches = [torch.from_numpy(batch) for batch in _calibration(context, model)()]
    return placed_anew(module, profile, batches)


def _calibration(context: StageContext, model: Model) -> Callable[[], Iterator[npt.NDArray[np.float32]]]:
    """The calibration images, preprocessed, `[N, C, H, W]` at a time."""
    preprocess = model.spec.preprocess

    def batches() -> Iterator[npt.NDArray[np.float32]]:
        images, _ = evaluation_arrays(context, preprocess, "calibration")
        for start in range(0, len(images), _BATCH):
            yield preprocess.apply(images[start : start + _BATCH])

    return batches
