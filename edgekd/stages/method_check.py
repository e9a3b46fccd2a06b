"""Checks, before any compute is spent, that a step's methods can run on what the recipe gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from edgekd.core.errors import UnmetNeedsError, UsageError, problems_of
from edgekd.data.split import UNLABELED
from edgekd.stages.network_check import origin, trial_labels, trial_network, trial_taps
from edgekd.stages.stage import KnownData, KnownStep

if TYPE_CHECKING:
    from torch import nn

    from edgekd.data.source import Outline, Source
    from edgekd.distill.participant import Participant
    from edgekd.distill.program import Program
    from edgekd.stages.training_settings import DistillingConfig, TrainingConfig

_LARGEST_TRIAL = 1e10
"""Sum over the networks of parameters x pixels up to which the terms are computed once: a second."""
_ANY_SHAPE, _MANY = (3, 32, 32), 1_000_000
"""Where the data are not known: the trial is left out, and a batch is as large as the recipe says."""


@dataclass(frozen=True)
class Lineup:
    """The steps that give a training its networks. `student` is None where the recipe names none."""

    student: KnownStep | None
    teachers: tuple[KnownStep, ...]

    @classmethod
    def of(cls, known: Mapping[str, Sequence[KnownStep]], student: str) -> Lineup:
        """From a step's inputs; `student` is the name of the one that learns."""
        learns = known.get(student, ())
        return cls(learns[0] if learns else None, tuple(known.get("teachers", ())))

    @property
    def steps(self) -> dict[str, KnownStep | None]:
        """Role -> step."""
        from edgekd.distill.compose import teacher_roles

        return {
            "student": self.student,
            **dict(zip(teacher_roles(len(self.teachers)), self.teachers, strict=True)),
        }


def trial_program(
    config: DistillingConfig, lineup: Lineup, classes: tuple[str, ...] | None = None
) -> Program:
    """What a step would run. Of networks that only the run knows, no tap is ruled out.

    classes: of the data. Raises `UsageError` as `build_program` does.
    """
    from edgekd.distill.compose import build_program
    from edgekd.distill.method import UNKNOWN_TAPS

    taps = {role: _taps(step) for role, step in lineup.steps.items()}
    settings = config.distillation
    if None in taps.values():
        # The names of its terms may depend on the networks.
        settings = settings.model_copy(update={"leave_out": ()})
    student, *teachers = (UNKNOWN_TAPS if found is None else found for found in taps.values())
    return build_program(
        settings,
        num_teachers=len(teachers),
        student_taps=student,
        teacher_taps=teachers,
        labels={role: names for role, names in _labels(lineup, classes).items() if names is not None},
    )


def _taps(step: KnownStep | None) -> tuple[str, ...] | None:
    found = trial_taps([step]) if step is not None else None
    return tuple(found[0]) if found else None


def _labels(lineup: Lineup, classes: tuple[str, ...] | None) -> dict[str, tuple[str, ...] | None]:
    """Role -> classes: a teacher may have its own, every other network is made for the data's."""
    return {
        role: (trial_labels([step])[0] if step is not None else None) or classes
        for role, step in lineup.steps.items()
    }


def check_methods(data: KnownData, config: DistillingConfig, lineup: Lineup, *, folded: bool = False) -> None:
    """Raise `UnmetNeedsError` with everything that the methods need and the recipe does not give.

    folded: the student's batch norms are folded before the training, which may take taps away. Networks of
    modest size, on data of known size, also try every term once.
    """
    program = trial_program(config, lineup, data.outline.classes if data.outline is not None else None)
    problems = [
        *_told(lambda: check_streams(program, data.source)),
        *_told(lambda: _check_networks(data.outline, config, lineup, program, folded)),
    ]
    if problems:
        raise UnmetNeedsError("the methods cannot run", problems=problems)


def batch_sizes(config: TrainingConfig, num_images: int, unlabeled: Sized | None) -> dict[str, int]:
    """Stream (or `LOOP`) -> images in a batch: of the unlabeled ones as many as of the others, or all."""
    from edgekd.distill.sources import LOOP

    size = config.batch_of(num_images)
    return {LOOP: size} | ({} if unlabeled is None else {UNLABELED: config.evenly(min(size, len(unlabeled)))})


def _told(check: Callable[[], None]) -> Iterator[str]:
    try:
        check()
    except UsageError as error:
        yield from problems_of(error)


def check_streams(program: Program, source: Source) -> None:
    """Raise `UsageError` where the program draws on images beside the batch that the recipe does not give."""
    for stream in program.streams:
        if stream != UNLABELED:
            raise UsageError(
                f"the method draws images from `{stream}`, which no recipe can give", choices=(UNLABELED,)
            )
        if source.unlabeled is None:
            raise UsageError(
                "the method learns from images without labels, and the recipe names none",
                fix="name a folder of them: `data: {unlabeled: folder/}`",
            )


def _check_networks(
    outline: Outline | None, config: DistillingConfig, lineup: Lineup, program: Program, folded: bool
) -> None:
    from edgekd.distill.validate import validate

    real = _real_networks(outline, lineup)
    labels = _labels(lineup, outline.classes if outline is not None else None)
    given = real or {role: _named(program, role, step, labels[role]) for role, step in lineup.steps.items()}
    num_images = (outline.num_images if outline is not None else None) or _MANY
    validate(
        program,
        given,
        outline.image_shape if outline is not None else _ANY_SHAPE,
        lost_taps=_lost_taps(program, lineup.student) if folded else (),
        streams=program.streams,
        batch_sizes=batch_sizes(config, num_images, None),
        trial=bool(real),
    )


def _real_networks(outline: Outline | None, lineup: Lineup) -> dict[str, Participant]:
    """The networks with memory, where the recipe names all of them and they are small; else nothing."""
    if outline is None or any(step is None for step in lineup.steps.values()):
        return {}
    steps = {role: origin(step) for role, step in lineup.steps.items() if step is not None}
    if sum(_size(step, outline) for step in steps.values()) > _LARGEST_TRIAL:
        return {}
    labels = _labels(lineup, outline.classes)
    return {role: _participant(step, outline, labels[role] or ()) for role, step in steps.items()}


def _trial(step: KnownStep) -> nn.Module | None:
    """The network that a step names, without memory; None where only the run knows it."""
    try:
        network: nn.Module | None = step.config.trial() if hasattr(step.config, "trial") else None
    except UsageError:
        return None  # told where the network is named
    return network


def _size(step: KnownStep, outline: Outline) -> float:
    """Parameters x pixels; infinite where only the run knows the network."""
    network = _trial(step)
    if network is None:
        return float("inf")
    pixels = prod(step.config.expects(outline.image_shape)[1:])
    return float(sum(parameter.numel() for parameter in network.parameters()) * pixels)


def _participant(step: KnownStep, outline: Outline, labels: tuple[str, ...]) -> Participant:
    from edgekd.core.preprocess import Preprocess
    from edgekd.distill.participant import Participant
    from edgekd.networks.resize import Normalize
    from edgekd.networks.tap import taps_of

    name, args = step.config.named()
    channels, *size = step.config.expects(outline.image_shape)
    network = trial_network(name, args, num_classes=len(labels), in_channels=channels, device="cpu")
    assert network is not None
    wanted: dict[str, Any] = {"size": size, "mean": [0.0] * channels, "std": [1.0] * channels}
    return Participant(network, Normalize(Preprocess.model_validate(wanted)), taps_of(network), labels)


def _named(
    program: Program, role: str, step: KnownStep | None, labels: tuple[str, ...] | None
) -> Participant:
    """A stand-in that has a name's worth of what the network will have: its taps and its classes."""
    from torch.nn import Identity

    from edgekd.distill.participant import Participant
    from edgekd.networks.tap import Tap

    taps = _taps(step)
    if taps is None:  # Building the program has ruled none out.
        taps = tuple(tap for turn in program.turns for tap in _read(program, turn, role))
    return Participant(Identity(), taps={tap: Tap("") for tap in taps}, labels=labels)


def _read(program: Program, turn: Any, network: str) -> Iterator[str]:
    """The taps that a turn reads of a network in any role that it plays."""
    for role in turn.roles:
        if program.network_of(role) == network:
            yield from turn.taps(role)


def _lost_taps(program: Program, student: KnownStep | None) -> tuple[str, ...]:
    """What folding takes away of a student that the recipe names, found on a network without weights."""
    from edgekd.distill.program import LOGITS
    from edgekd.quant.folding import lost_taps

    deployed = program.deploy.network
    read = {tap for turn in program.turns for tap in _read(program, turn, deployed)}
    if student is None or read <= {LOGITS}:
        return ()
    network = _trial(origin(student))
    return () if network is None else lost_taps(network)
