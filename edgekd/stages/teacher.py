"""The teacher stage: a trained network from where the recipe says, scored on val before anything else."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from edgekd.core.classes import places
from edgekd.core.config import Config
from edgekd.core.errors import ModelError
from edgekd.core.preprocess import Preprocess
from edgekd.core.shipped import shipped_models
from edgekd.core.spec import ModelSpec, NetworkSpec
from edgekd.stages.context import StageContext
from edgekd.stages.network_check import NetworkName, python_file, trial_network
from edgekd.stages.stage import Inputs, KnownData, KnownStep, Product, Stage
from edgekd.stages.training_settings import TrainingConfig, estimate

if TYPE_CHECKING:
    from torch import nn

    from edgekd.networks.model import Model


class PreprocessConfig(Config):
    """What the teacher expects of its input; whatever is left out is the training data's own."""

    size: tuple[int, int] | None = Field(None, description="(height, width) in pixels")
    mean: tuple[float, ...] | None = Field(None, description="one value per channel, after scaling")
    std: tuple[float, ...] | None = Field(None, description="one value per channel, after scaling")
    scale: float | None = Field(None, description="multiplies the 0-255 pixel values first; default 1/255")

    @model_validator(mode="after")
    def _consistent(self) -> PreprocessConfig:
        channels = len(self.mean or self.std or (0.0,))
        rest = {"size": (1, 1), "mean": (0.0,) * channels, "std": (1.0,) * channels}
        Preprocess.model_validate({**rest, **self.model_dump(exclude_none=True)})
        return self


ClassName = Annotated[str, Field(coerce_numbers_to_str=True)]


class TeacherConfig(TrainingConfig):
    """One source: `model`, `network` (trained, or with `weights`), `torchvision`, `onnx` or `python`."""

    model: str | None = Field(None, description="a shipped model (`edgekd list models`)")
    network: NetworkName | None = Field(None, description="an architecture (`edgekd list networks`)")
    args: dict[str, Any] = Field(default_factory=dict, description="the architecture's arguments")
    torchvision: str | None = Field(None, description="a torchvision classifier, as `resnet50`")
    onnx: Path | None = Field(None, description="an .onnx file; gives logits only")
    python: str | None = Field(None, description="`file.py:function`; needs `trust_code: true`")
    weights: str | None = Field(
        None, description="a .safetensors or state-dict file, or `published` (torchvision's own)"
    )
    prefix: str | None = Field(None, description="key prefix of the weights file to strip, as `module.`")
    labels: tuple[ClassName, ...] | None = Field(
        None,
        min_length=2,
        description="the classes it knows, in the order of its outputs; default: the data's. One that is "
        "trained sees the images of these classes only",
    )
    preprocess: PreprocessConfig | None = Field(None, description="what the network expects of its input")
    accept_poor: bool = Field(False, description="go on with a teacher that scores near chance on val")

    @model_validator(mode="after")
    def _one_source(self) -> TeacherConfig:
        given = [name for name in _SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            said = ", ".join(given) or "none"
            raise ValueError(f"a teacher has exactly one of {', '.join(_SOURCES)} (given: {said})")
        return self

    @model_validator(mode="after")
    def _distinct_labels(self) -> TeacherConfig:
        names = self.labels or ()
        if names and self.model is not None:
            raise ValueError("`labels`: a shipped model has its own; leave them out")
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"`labels` names the class `{name}` twice")
        return self

    def files(self) -> Sequence[Path]:
        paths = [self.onnx, *(python_file(name) for name in (self.python, self.network) if name)]
        if self.weights is not None and self.weights != "published":
            paths.append(Path(self.weights))
        if self.model is not None and self.model in shipped_models():
            folder = shipped_models()[self.model]
            paths += [folder / "spec.yaml", folder / "weights.safetensors"]
        return [path for path in paths if path is not None]

    def own_labels(self) -> tuple[str, ...] | None:
        """The classes it knows; None: the data's. Raises `UsageError`."""
        if self.model is None:
            return self.labels
        from edgekd.networks.shipped import shipped_spec

        return shipped_spec(self.model).labels

    def trial(self) -> nn.Module | None:
        """The network on no device, for checks; None where only a run knows it. Raises `ModelError`."""
        named = self.named()
        return trial_network(*named) if named is not None else None

    def named(self) -> tuple[str, Mapping[str, Any]] | None:
        """The network and its arguments; None where only a run knows them. Raises `UsageError`."""
        if self.model is not None:
            from edgekd.networks.shipped import shipped_spec

            network = shipped_spec(self.model).network
            return network.name, network.args
        if self.torchvision is not None:
            return f"torchvision/{self.torchvision}", self.args
        return (self.network, self.args) if self.network is not None else None

    def expects(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(C, H, W) of its input, on data of `image_shape`."""
        if self.model is not None:
            from edgekd.networks.shipped import shipped_spec

            spec = shipped_spec(self.model)
            return spec.network.in_channels, *spec.preprocess.size
        given = self.preprocess or PreprocessConfig()
        height, width = given.size or image_shape[1:]
        return len(given.mean or given.std or range(image_shape[0])), height, width


_SOURCES = ("model", "network", "torchvision", "onnx", "python")


def run(context: StageContext, config: TeacherConfig, inputs: Inputs) -> Product:
    from edgekd.stages.model_files import save_scored
    from edgekd.stages.teacher_check import check_teacher

    model, history, note = _model(context, config)
    if not config.accept_poor:
        check_teacher(context, model)
    facts = {"history": history, "num_epochs": len(history), "origin": note}
    return save_scored(context, model, {**facts, **_titled(context, model)})


def _titled(context: StageContext, model: Model) -> dict[str, str]:
    """The title of the row of a teacher that does not know all classes."""
    known, total = len(model.spec.labels), len(context.data.dataset.classes)
    return {"row_title": f"teacher (knows {known} of {total} classes)"} if known < total else {}


def _model(context: StageContext, config: TeacherConfig) -> tuple[Model, list[Mapping[str, Any]], str]:
    if config.model is not None:
        from edgekd.networks.shipped import load_shipped

        return load_shipped(config.model), [], f"shipped model {config.model}"
    if config.onnx is not None:
        return _graph(context, config, config.onnx), [], f"graph {config.onnx.name}"
    if config.weights is not None:
        return _loaded(context, config), [], f"weights {Path(config.weights).name}"
    return _trained(context, config)


def _graph(context: StageContext, config: TeacherConfig, path: Path) -> Model:
    """The graph as a model, after making sure that it can also be measured at the end."""
    from edgekd.backends.onnx.adopt import adopt

    model = _built(context, config)
    height, width = model.spec.preprocess.size
    shape = (model.spec.network.in_channels, height, width)
    with tempfile.TemporaryDirectory(dir=context.folder) as folder:
        adopt(path, shape, Path(folder, "graph.onnx"))
    return model


def _built(context: StageContext, config: TeacherConfig) -> Model:
    from edgekd.networks.model import build_model

    return build_model(_spec(context, config), trust_code=context.trust_code)


def _check_labels(config: TeacherConfig, classes: tuple[str, ...]) -> None:
    """Raise `UsageError` for a class that the data lack."""
    own = config.own_labels() or ()
    if config.model is None:
        places(own, classes, whose="`labels`:")
    elif not set(own) <= set(classes):
        raise ModelError(
            f"the shipped model knows {len(own)} other classes than the data's {len(classes)}",
            where=f"teacher.model = {config.model}",
            choices=shipped_models(),
            fix="train a teacher on these data (`teacher: {network: ...}`), or use the data of the model",
        )


def check(data: KnownData, config: TeacherConfig, known: Mapping[str, Sequence[KnownStep]]) -> None:
    """Raise `UsageError` for a network that cannot be built, or that knows other classes than the data."""
    config.trial()
    if data.outline is not None:
        _check_labels(config, data.outline.classes)


def _spec(context: StageContext, config: TeacherConfig) -> ModelSpec:
    from edgekd.stages.model_files import default_preprocess

    labels = config.labels or context.data.dataset.classes
    preprocess = default_preprocess(context.of_classes(labels).data)
    if config.preprocess is not None:
        given = config.preprocess.model_dump(exclude_none=True)
        preprocess = type(preprocess).model_validate({**preprocess.model_dump(), **given})
    torchvision = f"torchvision/{config.torchvision}" if config.torchvision else None
    name = config.network or config.python or torchvision or "onnx"
    args = dict(config.args)
    if config.torchvision is not None and config.weights == "published":
        args["weights"] = "published"
    if config.onnx is not None:
        args["file"] = str(config.onnx)
    network = NetworkSpec(name=name, args=args, num_classes=len(labels), in_channels=preprocess.num_channels)
    return ModelSpec(network=network, preprocess=preprocess, labels=labels)


def _loaded(context: StageContext, config: TeacherConfig) -> Model:
    from edgekd.networks.weights import load_strict, read_state

    model = _built(context, config)
    if config.weights != "published":
        path = Path(str(config.weights))
        prefixes = {config.prefix: ""} if config.prefix else None
        state = read_state(path, prefixes=prefixes)
        load_strict(model.module, state, where=str(path))
    return model


def _trained(context: StageContext, config: TeacherConfig) -> tuple[Model, list[Mapping[str, Any]], str]:
    from edgekd.distill.settings import DistillSettings
    from edgekd.networks.initialize import init_weights
    from edgekd.stages.training import train

    model = _built(context, config)
    init_weights(model.module, context.seed, "teacher")
    history = train(context, config, model, teachers=[], settings=DistillSettings(method="none"))
    return model, history, "trained in this run"


def _estimate(config: TeacherConfig, num_images: int) -> float:
    trains = config.network is not None and config.weights is None
    return estimate(config, num_images) if trains else 5.0


STAGE = Stage(
    name="teacher",
    summary="the trained network to learn from",
    config=TeacherConfig,
    run=run,
    produces="model",
    reads=("labeled_data",),
    sources=("edgekd.networks", "edgekd.train", "edgekd.distill", "edgekd.data"),
    libraries=("torch", "torchvision", "numpy"),
    row="teacher",
    title="teacher",
    estimate=_estimate,
    check=check,
)
