"""Trains one model: the same glue of data, method and loop for the teacher, the student and INT8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekd.core.seed import derive
from edgekd.data.split import UNLABELED
from edgekd.distill.settings import DistillSettings
from edgekd.stages.context import StageContext
from edgekd.stages.training_settings import TrainingConfig

if TYPE_CHECKING:
    from edgekd.data.augmentation import Augment
    from edgekd.data.loader import Loader
    from edgekd.distill.context import Stream
    from edgekd.distill.engine import Engine
    from edgekd.distill.program import Program
    from edgekd.distill.recorded import Recorder
    from edgekd.distill.update import Rules
    from edgekd.networks.model import Model
    from edgekd.train.record import FitResult
    from edgekd.train.world import World

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
    world: World | None = None,
) -> History:
    """Train `model` in place; returns one entry an epoch, without anything that depends on the clock.

    It sees the images of the classes that it knows, in training and for the accuracy of its epochs.

    `num_epochs` overrides the configuration's `epochs` and `time`. Resumes from the step's folder. world: the
    processes that share the training, if this is one of several. Raises `UsageError` first where the methods
    cannot run on these networks.
    """
    from edgekd.stages.processes import train_together
    from edgekd.train.seeding import reproducible
    from edgekd.train.world import ALONE

    context = context.of_classes(model.spec.labels)
    if world is None:
        _check(context, config, model, teachers, settings)
    if config.processes > 1 and world is None:
        return train_together(
            context,
            config,
            model,
            teachers=teachers,
            settings=settings,
            num_epochs=num_epochs,
            folder=context.folder / name,
        )
    with reproducible(context.threads):
        result, engine = _fit(
            context,
            config,
            model,
            teachers,
            settings,
            num_epochs,
            context.folder / name if checkpoints else None,
            world or ALONE,
        )
    model.module.cpu()
    model.module.load_state_dict(engine.deployed(best=config.keep == "best").state_dict())
    model.module.eval()
    return [_timeless(asdict(epoch)) for epoch in result.history]


def _check(
    context: StageContext,
    config: TrainingConfig,
    model: Model,
    teachers: Sequence[Model],
    settings: DistillSettings,
) -> None:
    """What `edgekd validate` cannot know of networks that a search, a file or folding has made."""
    from edgekd.distill.launch import given_roles
    from edgekd.distill.participant import Participant
    from edgekd.distill.validate import validate
    from edgekd.stages.method_check import batch_sizes, check_streams

    program, dataset = program_for(settings, model, teachers), context.data.dataset
    check_streams(program, context.data.source)
    validate(
        program,
        given_roles(Participant.of(model), [Participant.of(teacher) for teacher in teachers]),
        (dataset.channels, *dataset.image_size),
        lost_taps=_lost_taps(model),
        streams=program.streams,
        batch_sizes=batch_sizes(config, len(dataset.train), dataset.unlabeled),
    )


def _lost_taps(model: Model) -> tuple[str, ...]:
    """What folding took away from a quantized network."""
    lost: tuple[str, ...] = getattr(model.module, "lost_taps", ())
    return lost


def _fit(
    context: StageContext,
    config: TrainingConfig,
    model: Model,
    teachers: Sequence[Model],
    settings: DistillSettings,
    num_epochs: int | None,
    folder: Path | None,
    world: World,
) -> tuple[FitResult, Engine]:
    from edgekd.train.loop import fit

    program = program_for(settings, model, teachers)
    loader = make_loader(context, config, program)
    recorder = _recorder(context, config, loader)
    streams = make_streams(context, config, program)
    engine = _engine(context, config, program, model, teachers, streams, recorder, world)
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
        world=world,
    )
    return result, engine


def program_for(settings: DistillSettings, model: Model, teachers: Sequence[Model]) -> Program:
    """What these networks are trained by; raises `UsageError` as `build_program` does."""
    from edgekd.distill.compose import build_program, teacher_roles

    roles = ("student", *teacher_roles(len(teachers)))
    return build_program(
        settings,
        num_teachers=len(teachers),
        # A lost tap is told as such, and not taken for one that never was.
        student_taps=[*model.taps, *_lost_taps(model)],
        teacher_taps=[list(teacher.taps) for teacher in teachers],
        labels={role: known.spec.labels for role, known in zip(roles, (model, *teachers), strict=True)},
    )


def make_loader(context: StageContext, config: TrainingConfig, program: Program) -> Loader:
    """The training images, in the batches and views that the program asks for."""
    from edgekd.data.loader import Loader

    dataset = context.data.dataset
    return Loader(
        dataset.train,
        image_size=dataset.image_size,
        channels=dataset.channels,
        batch_size=config.batch_of(len(dataset.train)),
        seed=context.seed,
        augment=_augment(context, config),
        views=program.views,
        num_variants=config.views_per_image,
        sampler=program.sampler,
    )


def _augment(context: StageContext, config: TrainingConfig) -> Augment | None:
    size = context.data.dataset.image_size
    return context.data.source.default_augment(size) if config.augment == "default" else None


def make_streams(context: StageContext, config: TrainingConfig, program: Program) -> dict[str, Stream]:
    """The unlabeled images, if the program draws on them: in batches as large as the labeled ones.

    Raises `UsageError` as `check_streams` does.
    """
    from edgekd.data.loader import Loader
    from edgekd.distill.sources import LoaderStream
    from edgekd.stages.method_check import batch_sizes, check_streams

    check_streams(program, context.data.source)
    dataset = context.data.dataset
    if dataset.unlabeled is None or not program.streams:
        return {}
    loader = Loader(
        dataset.unlabeled,
        image_size=dataset.image_size,
        channels=dataset.channels,
        batch_size=batch_sizes(config, len(dataset.train), dataset.unlabeled)[UNLABELED],
        seed=derive(context.seed, UNLABELED),
        augment=_augment(context, config),
        views=program.streams[UNLABELED],
    )
    return {UNLABELED: LoaderStream(loader)}


def _engine(
    context: StageContext,
    config: TrainingConfig,
    program: Program,
    model: Model,
    teachers: Sequence[Model],
    streams: Mapping[str, Stream],
    recorder: Recorder | None,
    world: World,
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
        streams=streams,
        recorder=recorder,
        compiled=config.compile,
        world=world,
    )


def _recorder(context: StageContext, config: TrainingConfig, loader: Loader) -> Recorder | None:
    """What frozen teachers answer is kept with the store, for every training on the same images."""
    from edgekd.distill.recorded import Recorder

    if config.views_per_image is None:
        return None
    source = context.data.source
    identity = {
        **context.basis,
        "data": context.data.digests["train"],
        "seed": context.seed,
        "augment": config.augment,
        "source": source.default_augment(context.data.dataset.image_size).model_dump(mode="json"),
        "size": list(context.data.dataset.image_size),
    }
    folder = context.data.cache_folder("answers")
    return Recorder(loader, config.views_per_image, folder, identity, context.emit)


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
