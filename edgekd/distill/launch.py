"""From a program and networks to the engine that trains them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from edgekd.distill.cast import Cast, ImageShape, assemble
from edgekd.distill.compose import teacher_roles, with_ema
from edgekd.distill.context import Live, Stream
from edgekd.distill.engine import Engine, Score
from edgekd.distill.participant import Participant
from edgekd.distill.program import Program
from edgekd.distill.recorded import Recorder, record
from edgekd.distill.sources import PlacedStream
from edgekd.distill.update import Rules
from edgekd.train.evaluate import accuracy, predict_logits
from edgekd.train.precision import Precision
from edgekd.train.world import ALONE, World

Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]
"""Images `[N, H, W, C]` and labels `[N]`."""


def make_engine(
    program: Program,
    *,
    student: Participant,
    teachers: Sequence[Participant] = (),
    others: Mapping[str, Participant] | None = None,
    validation: Arrays,
    image_shape: ImageShape,
    rules: Rules,
    seed: int,
    precision: Precision | None = None,
    ema: float | None = None,
    streams: Mapping[str, Stream] | None = None,
    recorder: Recorder | None = None,
    compiled: bool = False,
    world: World = ALONE,
) -> Engine:
    """The engine for one training run; it moves and trains the modules it is given in place.

    validation: at the student's input size or the data's; scored in float32. image_shape: (C, H, W) of the
    loader's batches. others: further networks by role (`assistant`). ema: decay of the averaged weights
    that are evaluated and deployed instead of the last ones. precision: float32 on the CPU by default.
    recorder: keeps what frozen roles answer (`edgekd.distill.recorded`). compiled: torch.compile on every
    image network, which takes half a minute each and pays in long trainings only. world: the processes that
    share the training.
    Raises `UsageError` for a role without a network; `edgekd.distill.validate` tells more, earlier.
    """
    given = given_roles(student, teachers, others)
    precision = precision or Precision("fp32", "cpu")
    for participant in given.values():
        precision.prepare(participant.module)
        precision.prepare(participant.normalize)
    if ema is not None:
        program = with_ema(program, ema)
    cast = assemble(program, given, image_shape, seed)
    for role in cast.roles.values():
        precision.prepare(role.module)
    recorded = record(program, cast, image_shape, precision, recorder) if recorder else {}
    if compiled:
        cast = with_compiled(program, cast)
    placed = {name: PlacedStream(stream, precision.place) for name, stream in (streams or {}).items()}
    live = Live(cast, precision, seed, placed, {}, recorded, world)
    return Engine(program, live, rules, image_shape, _score(validation, precision))


def with_compiled(program: Program, cast: Cast) -> Cast:
    """The same networks, those that take images with a compiled forward pass; parameters are shared."""
    roles = {
        name: replace(role, forward=torch.compile(role.module)) if program.takes_images(name) else role
        for name, role in cast.roles.items()
    }
    return replace(cast, roles=roles)


def given_roles(
    student: Participant,
    teachers: Sequence[Participant] = (),
    others: Mapping[str, Participant] | None = None,
) -> dict[str, Participant]:
    """The networks by the role names that programs use; what `validate` takes."""
    numbered = dict(zip(teacher_roles(len(teachers)), teachers, strict=True))
    return {"student": student, **numbered, **(others or {})}


def _score(validation: Arrays, precision: Precision) -> Score:
    images, labels = validation

    def score(participant: Participant) -> float:
        logits = predict_logits(participant.module, participant.normalize, images, device=precision.device)
        return accuracy(logits, labels)

    return score
