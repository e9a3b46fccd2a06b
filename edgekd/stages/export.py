"""The export stage: the graph that a runtime loads, checked against the model it came from."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, runtime_checkable

import numpy as np
from pydantic import BeforeValidator, Field, field_validator, model_validator

from edgekd.backends.backend import Backend
from edgekd.backends.catalogue import BACKENDS
from edgekd.backends.names import BackendName, checked_options
from edgekd.backends.onnx.adopt import adopt
from edgekd.core.errors import (
    AbsentRuntimeError,
    MissingDependencyError,
    ModelError,
    UnprovenVersionError,
    UsageError,
)
from edgekd.stages.context import StageContext
from edgekd.stages.stage import Input, Inputs, KnownData, KnownStep, Part, Product, Stage, StageConfig

if TYPE_CHECKING:
    from edgekd.backends.source import Source
    from edgekd.measure.accuracy import Logits
    from edgekd.networks.model import Model
    from edgekd.stages.export_form import Form

LEAST_AGREEMENT = 0.98
"""Below this share of equal predictions on val, the export is broken rather than rounded."""


Precision = Literal["own", "fp32", "fp16", "bf16"]
_INSTALLED = "installed"
_OF_GRAPHS = "onnx"


def _installed(written: Any) -> Any:
    """The backends whose libraries are here, in the order of the catalogue, for the word `installed`."""
    if written != _INSTALLED:
        return written
    found = []
    for name in BACKENDS.names():
        try:
            BACKENDS.load(name).require()
        except UnprovenVersionError:
            raise  # it is here: to leave it out silently would look as if it were not
        except MissingDependencyError:
            continue
        found.append(name)
    return found


class ExportConfig(StageConfig):
    """Which formats to write."""

    backends: Annotated[tuple[BackendName, ...], BeforeValidator(_installed)] = Field(
        ("onnx",),
        description="formats; the first one ships and is judged; `edgekd list backends`, or `installed`",
    )
    precision: Precision = Field(
        "own", description="own: as the model is (INT8 once quantized); fp32, fp16 and bf16: of a float model"
    )
    beside: tuple[Literal["fp32", "fp16", "bf16"], ...] = Field(
        (), description="precisions in which every backend also gets the model before quantization"
    )
    options: dict[BackendName, dict[str, Any]] = Field(
        {}, description="of single backends, as `{executorch: {allow_outside: true}}`"
    )
    model: str | None = Field(None, description="step that gives the model; default: the nearest")

    @field_validator("backends")
    @classmethod
    def _one_or_more(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not names or len({*names}) < len(names):
            raise ValueError("name at least one backend, and each once")
        return names

    @field_validator("options")
    @classmethod
    def _known_options(cls, options: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return {name: checked_options(BACKENDS.load(name), written) for name, written in options.items()}

    @model_validator(mode="after")
    def _can_be_written(self) -> ExportConfig:
        for name in self.backends:
            precisions = BACKENDS.load(name).precisions
            if self.precision != "own" and self.precision not in precisions:
                raise ValueError(f"{name} has no {self.precision}; it has: {', '.join(precisions)}")
        return self

    def ships_in(self) -> str | None:
        return None if self.precision == "own" else self.precision

    def runs_in(self) -> Sequence[str]:
        return self.backends


def parts(config: ExportConfig) -> Sequence[Part]:
    """A graph for each backend; then the float model for each backend in each precision that is wanted."""
    whole = Part(_of_backend(config, config.backends[0]))
    return [whole, *_in_other_backends(config), *_in_other_precisions(config)]


def _of_backend(config: ExportConfig, name: str) -> dict[str, Any]:
    """What changes in the configuration of the part for one backend."""
    options = {key: value for key, value in config.options.items() if key == name}
    return {"backends": (name,), "beside": (), "options": options}


def _in_other_backends(config: ExportConfig) -> Iterator[Part]:
    for name in config.backends[1:]:
        backend = BACKENDS.load(name)
        yield Part(
            _of_backend(config, name),
            suffix=name,
            title=backend.title,
            of_float="int8" not in backend.precisions,
        )


def _in_other_precisions(config: ExportConfig) -> Iterator[Part]:
    for name, precision in itertools.product(config.backends, config.beside):
        backend = BACKENDS.load(name)
        if precision in backend.precisions:
            yield Part(
                {**_of_backend(config, name), "precision": precision},
                suffix=f"{name}-{precision}",
                title=f"{backend.title} {precision.upper()}",
                of_float=True,
            )


def check(data: KnownData, config: ExportConfig, known: Mapping[str, Sequence[KnownStep]]) -> None:
    """Raise `UsageError` for a quantized model that is to be in float, or is for a backend without INT8."""
    from edgekd.stages.catalogue import STAGES

    quantized = any(STAGES.load(step.stage).quantizes for step in known.get("model", ()))
    if config.precision != "own" and quantized:
        raise UsageError(
            f"`precision: {config.precision}` is of a float model, and this one is quantized",
            fix="name the step before quantization as `model:`, or ask for it as `beside: [fp16]`",
        )
    for name in config.backends[:1]:
        if quantized and "int8" not in BACKENDS.load(name).precisions:
            raise UsageError(
                f"{name} has no INT8, and the model that ships is quantized",
                fix="name the step before quantization as `model:`, or put another backend first",
            )


@runtime_checkable
class IsGraph(Protocol):
    """A module that only wraps a graph (an ONNX teacher): its file is what is measured."""

    path: Path


def run(context: StageContext, config: ExportConfig, inputs: Inputs) -> Product:
    from edgekd.stages.export_form import form_for
    from edgekd.stages.model_files import load, model_facts

    (source,) = inputs["model"]
    model = load(source, trust_code=context.trust_code)
    # A teacher that is a graph already is measured as it is, whatever the student is exported to.
    is_graph = isinstance(model.module, IsGraph)
    (name,), precision = ((_OF_GRAPHS,), "own") if is_graph else (config.backends, config.precision)
    backend = BACKENDS.load(name)
    form = form_for(context, model, backend, precision)
    file = f"model{backend.suffix}"
    wanted = replace(form.source, options=config.options.get(name, {}))
    exported, measured = _write(backend, wanted, context.folder / file)
    files = [path.name for path in backend.files_of(context.folder / file)]
    facts = {
        **model_facts(model),
        "file": file,
        "backend": name,
        "precision": form.source.precision,
        "size_bytes": backend.size_of(context.folder / file),
        "export": {**exported, **_int8_form(form, exported)},
        **_fidelity(context, form, file, backend),
    }
    return Product("graph", facts, files, measured)


def _int8_form(form: Form, exported: Mapping[str, Any]) -> dict[str, Any]:
    """How the integers came about: the exporter knows best, but not of what was done before it."""
    if form.int8 is None:
        return {}
    return {"int8_form": exported.get("int8_form", form.int8) if form.int8 == "trained" else form.int8}


def _write(backend: Backend, source: Source, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Facts of the file, and what running it told."""
    if isinstance(source.module, IsGraph):
        return adopt(source.module.path, source.input_shape, path), {}
    facts = backend.export(source, path)
    return facts, backend.checked(source, path)


def _fidelity(context: StageContext, form: Form, file: str, backend: Backend) -> dict[str, Any]:
    """The graph's accuracy on val through its runtime, and its agreement with the model in torch.

    `not_executed` is the reason where no target and not this machine has the runtime. Raises `ModelError`
    when they disagree more than rounding explains; what the converter quantized itself may be apart.
    """
    from edgekd.stages.model_files import accuracy, val_logits

    model = form.model
    runtime = backend.checked_by or backend.name
    try:
        logits = _val_logits_of_file(context, model, context.folder / file, backend)
    except AbsentRuntimeError as error:
        text = f"{backend.title} did not run the exported file: {error.what}"
        context.emit({"event": "note", "text": text})
        return {"not_executed": error.what}
    expected = val_logits(context, model)
    agreement = float((logits.argmax(1) == expected.argmax(1)).mean())
    if agreement < LEAST_AGREEMENT and form.int8 != "native-ptq":
        raise ModelError(
            f"the exported graph agrees with the model on only {agreement:.1%} of the validation images",
            where=f"export to {backend.name}",
            fix="this is a defect of the export or the runtime; please report it with the recipe",
        )
    return {
        "checked_by": runtime,
        "val_accuracy": accuracy(context, model, logits),
        "val_accuracy_torch": accuracy(context, model, expected),
        "val_agreement": agreement,
        "val_mean_difference": float(np.abs(logits - expected).mean()),
    }


def _val_logits_of_file(context: StageContext, model: Model, path: Path, backend: Backend) -> Logits:
    """On the first target that has the runtime, else here. Raises `AbsentRuntimeError`."""
    from edgekd.measure.probes import predict
    from edgekd.stages.model_files import evaluation_arrays
    from edgekd.targets.devices_file import LOCAL
    from edgekd.targets.local import LocalTarget

    preprocess = model.spec.preprocess
    images, _ = evaluation_arrays(context, preprocess, "val")
    runtime = backend.checked_by or backend.name
    places = (*context.reached, LocalTarget(name=LOCAL))
    *targets, here = [place.with_options(backend.check_options) for place in places]
    for target in targets:
        with suppress(AbsentRuntimeError):
            return predict(path, images, preprocess, target, backend=runtime)
    return predict(path, images, preprocess, here, backend=runtime)


STAGE = Stage(
    name="export",
    summary="the graph that a runtime loads",
    config=ExportConfig,
    run=run,
    produces="graph",
    inputs=(Input("model", ("model",)),),
    reads=("data", "targets"),
    parts=parts,
    check=check,
    sources=("edgekd.networks", "edgekd.quant", "edgekd.backends", "edgekd.measure"),
    libraries=("torch", "onnx", "onnxscript", "onnxruntime"),
    estimate=lambda config, num_images: 6.0,
)
