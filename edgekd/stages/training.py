"""Trains one model: the same glue of data, method and loop for the teacher, the student and INT8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.distill.settings import DistillSettings
from edgekd.stages.context import StageContext
from edgekd.stages.training_settings import TrainingConfig

if TYPE_CHECKING:
    from edgekd.data.loader import Loader
    from edgekd.distill.engine import Engine
    from edgekd.distill.program import Program
    from edgekd.distill.update import Rules
    from edgekd.networks.model import Model
    from edgekd.train.record import FitResult

History = list[Mapping[str, Any]]


def train(
    context: StageContext,
    config: TrainingConfig,
    model: Model,
    *,
    teachers: Sequence[Model],
    settings: DistillSettings,
    num_epochs: int | None = None,
    name: str = "training",
    checkpoints: bool = True,
) -> History:
    """Train `model` in place; returns one entry an epoch, without anything that depends on the clock.

    `num_epochs` overrides the configuration's `epochs` and `time`. Resumes from the step's folder.
    """
    from edgekd.train.seeding import reproducible

    with reproducible(context.threads):
        result, engine = _fit(
            context,
            config,
            model,
            teachers,
            settings,
            num_epochs,
            context.folder / name if checkpoints else None,
        )
    model.module.cpu()
    model.module.load_state_dict(engine.deployed(best=config.keep == "best").state_dict())
    model.module.eval()
    return [_timeless(asdict(epoch)) for epoch in result.history]


def _fit(
    context: StageContext,
    config: TrainingConfig,
    model: Model,
    teachers: Sequence[Model],
    settings: DistillSettings,
    num_epochs: int | None,
    folder: Path | None,
) -> tuple[FitResult, Engine]:
    from edgekd.train.loop import fit

    program = _program(settings, model, teachers)
    loader = _loader(context, config, program.views)
    engine = _engine(context, config, program, model, teachers)
    epochs = num_epochs or (None if config.time is not None else config.epochs)
    result = fit(
        engine,
        loader,
        seed=context.seed,
        num_epochs=epochs,
        time_s=config.time_s if epochs is None else None,
        checkpoint_dir=folder,
        emit=context.emit,
        should_stop=context.should_stop,
    )
    return result, engine


def _program(settings: DistillSettings, model: Model, teachers: Sequence[Model]) -> Program:
    from edgekd.distill.compose import build_program

    return build_program(
        settings,
        num_teachers=len(teachers),
        student_taps=list(model.taps),
        teacher_taps=[list(teacher.taps) for teacher in teachers],
    )


def _loader(context: StageContext, config: TrainingConfig, views: tuple[str, ...]) -> Loader:
    from edgekd.data.loader import Loader

    dataset = context.data.dataset
    augment = context.data.source.default_augment(dataset.image_size) if config.augment == "default" else None
    return Loader(
        dataset.train,
        image_size=dataset.image_size,
        channels=dataset.channels,
        batch_size=config.batch_of(len(dataset.train)),
        seed=context.seed,
        augment=augment,
        views=views,
    )


def _engine(
    context: StageContext,
    config: TrainingConfig,
    program: Program,
    model: Model,
    teachers: Sequence[Model],
) -> Engine:
    from edgekd.distill.launch import make_engine
    from edgekd.distill.participant import Participant
    from edgekd.stages.model_files import evaluation_arrays
    from edgekd.train.precision import Precision

    dataset = context.data.dataset
    return make_engine(
        program,
        student=Participant.of(model),
        teachers=[Participant.of(teacher) for teacher in teachers],
        validation=evaluation_arrays(context, model.spec.preprocess, "val"),
        image_shape=(dataset.channels, *dataset.image_size),
        rules=_rules(config),
        seed=context.seed,
        precision=Precision(config.precision, context.device),
        ema=config.ema or None,
    )


def _rules(config: TrainingConfig) -> Rules:
    from edgekd.distill.update import Rules
    from edgekd.train.optimizer import OptimizerConfig
    from edgekd.train.schedule import ScheduleConfig

    optimizer = OptimizerConfig(
        name=config.optimizer,
        learning_rate=config.peak_learning_rate,
        weight_decay=config.weight_decay,
    )
    return Rules(optimizer=optimizer, schedule=ScheduleConfig(name=config.schedule))


def _timeless(epoch: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in epoch.items() if name not in ("seconds", "event")}
