"""How long and with what a step trains: the keys that every training stage has."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from edgekd.distill.settings import DistillSettings, MethodUse, MethodUses
from edgekd.stages.stage import StageConfig

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h)")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


LARGEST_BATCH, SMALLEST_BATCH, LEAST_UPDATES = 128, 16, 30


def seconds(text: str) -> float:
    """`90s`, `20m` or `1.5h` in seconds; raises `ValueError` for anything else."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError("a duration is a number with s, m or h, as `20m`")
    return float(match[1]) * _SECONDS[match[2]]


def _checked_duration(text: str) -> str:
    seconds(text)
    return text


Duration = Annotated[str, AfterValidator(_checked_duration)]


class TrainingConfig(StageConfig):
    """Keys shared by every stage that trains. `time` in place of `epochs` fills that long."""

    epochs: Annotated[int, Field(ge=0, le=10_000, description="passes over the training images")] = 30
    time: Annotated[Duration | None, Field(description="train this long instead of `epochs`, as `20m`")] = (
        None
    )
    batch_size: Annotated[
        int | None,
        Field(
            ge=2, le=4096, description="images in one update; default 128, fewer where there are few images"
        ),
    ] = None
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="sgd (Nesterov) or adamw")
    learning_rate: Annotated[
        float | None, Field(gt=0, description="peak; default 0.1 (sgd), 1e-3 (adamw)")
    ] = None
    weight_decay: Annotated[float, Field(ge=0, description="not applied to norms and biases")] = 5e-4
    schedule: Literal["cosine", "one_cycle", "step", "constant"] = Field(
        "one_cycle", description="of the learning rate"
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1, description="of the task loss")] = 0.0
    ema: Annotated[float, Field(ge=0, lt=1, description="decay of the averaged weights; 0: none")] = 0.0
    augment: Literal["default", "none"] = Field("default", description="the data source's own, or none")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto", description="auto: reduced only where this processor is fast at it"
    )
    keep: Literal["last", "best"] = Field("last", description="which epoch's weights (best on val)")
    views_per_image: Annotated[
        int | None,
        Field(
            ge=1,
            le=1000,
            description="augmented versions of an image, taken in turn, so that a frozen teacher answers "
            "each only once; default: new ones every epoch",
        ),
    ] = None
    compile: bool = Field(False, description="torch.compile the networks; pays in long trainings only")
    processes: int = Field(1, ge=1, le=64, description="processes that share every batch (torchrun)")

    @model_validator(mode="after")
    def _shared(self) -> Self:
        if self.processes > 1 and self.time is not None:
            raise ValueError("`time` needs one process: give `epochs` with `processes`")
        if self.batch_size is not None and self.batch_size % self.processes:
            raise ValueError(
                f"a batch of {self.batch_size} cannot be shared evenly by {self.processes} processes: "
                f"give a `batch_size` divisible by {self.processes}"
            )
        return self

    @property
    def time_s(self) -> float | None:
        return seconds(self.time) if self.time is not None else None

    def batch_of(self, num_images: int) -> int:
        """Images in one update: what the recipe says, else 128 or as many as leave 30 updates an epoch.

        Always as many for every process.
        """
        if self.batch_size is not None:
            return self.evenly(min(self.batch_size, num_images))
        return self.evenly(max(SMALLEST_BATCH, min(LARGEST_BATCH, num_images // LEAST_UPDATES)))

    def evenly(self, count: int) -> int:
        """The most images, up to `count`, that the processes can share evenly; at least one each."""
        return max(count - count % self.processes, self.processes)

    @property
    def peak_learning_rate(self) -> float:
        return self.learning_rate or {"sgd": 0.1, "adamw": 1e-3}[self.optimizer]


SECONDS_PER_IMAGE = 1.5e-3
"""Of training, typical of a small network on two CPU cores: only for a first, rough estimate of time."""


def estimate(config: TrainingConfig, num_images: int) -> float:
    """Rough seconds of a training."""
    return config.time_s or config.epochs * num_images * SECONDS_PER_IMAGE


class DistillingConfig(TrainingConfig):
    """Keys of stages that train with a teacher."""

    method: MethodUses = Field(
        (MethodUse(name="kd"),),
        description="a method's name, {name, parameters...}, or a list of these that are added up",
    )
    task_weight: Annotated[
        float | None, Field(ge=0, description="weight of cross-entropy; default: the method's own")
    ] = None
    leave_out: Annotated[
        tuple[str, ...],
        Field(description="terms of the student's loss that are dropped, as `edgekd ablate` does one by one"),
    ] = ()

    @property
    def distillation(self) -> DistillSettings:
        return DistillSettings(
            method=self.method,
            task_weight=self.task_weight,
            label_smoothing=self.label_smoothing,
            leave_out=self.leave_out,
        )
