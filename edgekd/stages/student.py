"""The student stage: a student named by hand, for recipes that do not search."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from edgekd.core.durable import write_json
from edgekd.core.spec import ModelSpec, NetworkSpec
from edgekd.stages.context import StageContext
from edgekd.stages.network_check import NetworkName, python_file, trial_network
from edgekd.stages.stage import Inputs, Product, Stage, StageConfig

if TYPE_CHECKING:
    from torch import nn

SPEC = "spec.json"


class StudentConfig(StageConfig):
    """The student's architecture."""

    network: NetworkName = Field(description="an architecture (`edgekd list networks`), or file.py:function")
    args: dict[str, Any] = Field(default_factory=dict, description="the architecture's arguments")
    size: tuple[int, int] | None = Field(
        None, description="(height, width) of its input; default: the data's"
    )

    def files(self) -> Sequence[Path]:
        path = python_file(self.network)
        return () if path is None else (path,)

    def trial(self) -> nn.Module | None:
        """The network on no device, for checks; None for a Python file. Raises `ModelError`."""
        return trial_network(self.network, self.args)

    def named(self) -> tuple[str, Mapping[str, Any]]:
        """The network and its arguments."""
        return self.network, self.args

    def expects(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(C, H, W) of its input, on data of `image_shape`."""
        channels, *size = image_shape
        height, width = self.size or size
        return channels, height, width


def run(context: StageContext, config: StudentConfig, inputs: Inputs) -> Product:
    from edgekd.stages.model_files import default_preprocess

    preprocess = default_preprocess(context.data)
    if config.size is not None:
        preprocess = preprocess.model_copy(update={"size": config.size})
    classes = context.data.dataset.classes
    network = NetworkSpec(
        name=config.network,
        args=config.args,
        num_classes=len(classes),
        in_channels=preprocess.num_channels,
    )
    return architecture(context, ModelSpec(network=network, preprocess=preprocess, labels=classes), {})


def architecture(context: StageContext, spec: ModelSpec, facts: dict[str, Any]) -> Product:
    """The artifact of a chosen architecture: built once, to be sure that it builds."""
    from edgekd.networks.model import build_model, with_files
    from edgekd.stages.model_files import model_facts

    model = build_model(spec, trust_code=context.trust_code)
    written = spec.model_copy(update={"network": with_files(context.folder, model)})
    write_json(context.folder / SPEC, json.loads(written.model_dump_json()))
    path = python_file(written.network.name)
    copied = [] if path is None else [path.name]
    return Product("architecture", {**model_facts(model), **facts}, [SPEC, *copied])


STAGE = Stage(
    name="student",
    summary="a student named by hand",
    config=StudentConfig,
    run=run,
    produces="architecture",
    sources=("edgekd.networks",),
    libraries=("torch",),
    estimate=lambda config, num_images: 1.0,
    check=lambda data, config, known: config.trial(),
)
