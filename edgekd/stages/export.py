"""The export stage: the graph that a runtime loads, checked against the model it came from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from pydantic import Field, field_validator

from edgekd.backends.backend import Backend
from edgekd.backends.catalogue import BACKENDS
from edgekd.backends.names import BackendName
from edgekd.backends.onnx.adopt import adopt
from edgekd.backends.source import Source
from edgekd.core.errors import ModelError
from edgekd.stages.context import StageContext
from edgekd.stages.stage import Input, Inputs, Part, Product, Stage, StageConfig

if TYPE_CHECKING:
    from edgekd.networks.model import Model

LEAST_AGREEMENT = 0.98
"""Below this share of equal predictions on val, the export is broken rather than rounded."""


class ExportConfig(StageConfig):
    """Which formats to write."""

    backends: tuple[BackendName, ...] = Field(
        ("onnx",), description="formats; the first one ships and is judged; `edgekd list backends`"
    )
    model: str | None = Field(None, description="step that gives the model; default: the nearest")

    @field_validator("backends")
    @classmethod
    def _one_or_more(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names or len({*names}) < len(names):
            raise ValueError("name at least one backend, and each once")
        return names

    def require(self) -> None:
        for name in self.backends:
            BACKENDS.load(name).require()


def parts(config: ExportConfig) -> Sequence[Part]:
    """A graph for each backend."""
    first, *others = config.backends
    return [
        Part({"backends": (first,)}),
        *(Part({"backends": (name,)}, suffix=name, title=BACKENDS.load(name).title) for name in others),
    ]


def run(context: StageContext, config: ExportConfig, inputs: Inputs) -> Product:
    from edgekd.stages.model_files import load, model_facts

    (source,) = inputs["model"]
    (name,) = config.backends
    backend = BACKENDS.load(name)
    model = load(source, trust_code=context.trust_code)
    file = f"model{backend.suffix}"
    exported = _write(backend, source_of(model), context.folder / file)
    files = [path.name for path in backend.files_of(context.folder / file)]
    facts = {
        **model_facts(model),
        "file": file,
        "backend": name,
        "precision": "int8" if model.spec.transforms else "fp32",
        "size_bytes": backend.size_of(context.folder / file),
        "export": exported,
        **_fidelity(context, model, file, name),
    }
    return Product("graph", facts, files)


@runtime_checkable
class IsGraph(Protocol):
    """A module that only wraps a graph (an ONNX teacher): its file is what is measured."""

    path: Path


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


def _write(backend: Backend, source: Source, path: Path) -> dict[str, Any]:
    if not isinstance(source.module, IsGraph):
        return backend.export(source, path)
    return adopt(source.module.path, source.input_shape, path)


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
    parts=parts,
    sources=("edgekd.networks", "edgekd.quant", "edgekd.backends"),
    libraries=("torch", "onnx", "onnxscript", "onnxruntime"),
    estimate=lambda config, num_images: 6.0,
)
