"""The export stage: the graph that a runtime loads, checked against the model it came from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from pydantic import Field, field_validator

from edgekd.backends.catalogue import BACKENDS
from edgekd.backends.onnx.adopt import adopt
from edgekd.core.errors import ModelError, UsageError
from edgekd.stages.context import StageContext
from edgekd.stages.stage import Input, Inputs, Product, Stage, StageConfig

if TYPE_CHECKING:
    from edgekd.networks.model import Model

LEAST_AGREEMENT = 0.98
"""Below this share of equal predictions on val, the export is broken rather than rounded."""


class ExportConfig(StageConfig):
    """Which formats to write."""

    backends: tuple[str, ...] = Field(("onnx",), description="formats; `edgekd list backends`")
    model: str | None = Field(None, description="step that gives the model; default: the nearest")

    @field_validator("backends")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            try:
                BACKENDS.entry(name)
            except UsageError as error:
                raise ValueError(str(error)) from None
        if len(names) != 1:
            raise ValueError("one backend per export step; write a second `- export:` with a `name:`")
        return names


def run(context: StageContext, config: ExportConfig, inputs: Inputs) -> Product:
    from edgekd.stages.model_files import load, model_facts

    (source,) = inputs["model"]
    (name,) = config.backends
    backend = BACKENDS.load(name)
    model = load(source, trust_code=context.trust_code)
    file = f"model{backend.suffix}"
    height, width = model.spec.preprocess.size
    shape = (model.spec.network.in_channels, height, width)
    exported = _write(backend.load_exporter(), model, shape, context.folder / file)
    facts = {
        **model_facts(model),
        "file": file,
        "backend": name,
        "precision": "int8" if model.spec.transforms else "fp32",
        "size_bytes": (context.folder / file).stat().st_size,
        "export": exported,
        **_fidelity(context, model, file, name),
    }
    return Product("graph", facts, [file])


@runtime_checkable
class IsGraph(Protocol):
    """A module that only wraps a graph (an ONNX teacher): its file is what is measured."""

    path: Path


def _write(
    exporter: Callable[..., dict[str, Any]], model: Model, shape: tuple[int, int, int], path: Path
) -> dict[str, Any]:
    if not isinstance(model.module, IsGraph):
        return exporter(model.module, input_shape=shape, path=path)
    return adopt(model.module.path, shape, path)


def _fidelity(context: StageContext, model: Model, file: str, backend: str) -> dict[str, Any]:
    """The graph's accuracy on val through its runtime, and its agreement with the model in torch.

    Raises `ModelError` when they disagree more than rounding explains.
    """
    from edgekd.measure.probes import predict
    from edgekd.stages.model_files import accuracy, evaluation_arrays, val_logits
    from edgekd.targets.devices_file import LOCAL
    from edgekd.targets.local import LocalTarget

    images, _ = evaluation_arrays(context, model.spec.preprocess, "val")
    target = next(iter(context.reached), LocalTarget(name=LOCAL))
    logits = predict(context.folder / file, images, model.spec.preprocess, target, backend=backend)
    expected = val_logits(context, model)
    agreement = float((logits.argmax(1) == expected.argmax(1)).mean())
    if agreement < LEAST_AGREEMENT:
        raise ModelError(
            f"the exported graph agrees with the model on only {agreement:.1%} of the validation images",
            where=f"export to {backend}",
            fix="this is a defect of the export or the runtime; please report it with the recipe",
        )
    return {
        "val_accuracy": accuracy(context, model, logits),
        "val_accuracy_torch": accuracy(context, model, expected),
        "val_agreement": agreement,
        "val_mean_difference": float(np.abs(logits - expected).mean()),
    }


STAGE = Stage(
    name="export",
    summary="the graph that a runtime loads",
    config=ExportConfig,
    run=run,
    produces="graph",
    inputs=(Input("model", ("model",)),),
    reads=("data", "targets"),
    sources=("edgekd.networks", "edgekd.quant", "edgekd.backends"),
    libraries=("torch", "onnx", "onnxscript", "onnxruntime"),
    estimate=lambda config, num_images: 6.0,
)
