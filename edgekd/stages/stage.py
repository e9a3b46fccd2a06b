"""What a stage is: a kind of work with its configuration, its inputs and the code its result depends on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from pydantic import Field

from edgekd.core.artifact import Artifact, Kind
from edgekd.core.config import Config
from edgekd.core.verdict import Limit
from edgekd.stages.context import StageContext

if TYPE_CHECKING:
    from edgekd.data.source import Outline, Source


class StageConfig(Config):
    """A step's keys in the recipe. Subclasses add a stage's own."""

    name: str | None = Field(None, description="name of the step, for a second use of a stage")

    def files(self) -> Sequence[Path]:
        """Files the step reads: their content becomes part of the step's key."""
        return ()

    def device_facts(self) -> Mapping[str, Mapping[str, Any]]:
        """What those files tell of devices, by target."""
        return {}

    def runs_in(self) -> Sequence[str]:
        """The backends that the step exports to, whose runtimes its targets need."""
        return ()

    def ships_in(self) -> str | None:
        """The precision that the step gives to what it exports; None: the model's own."""
        return None

    def shipping(self, backend: str) -> Self:
        """With what only the whole recipe tells: the backend of the graph that ships."""
        return self


@dataclass(frozen=True)
class Input:
    """One named input. Without a word in the recipe it is the nearest earlier step of these kinds."""

    name: str
    kinds: tuple[Kind, ...]
    many: bool = False
    optional: bool = False
    first: bool = False
    """Take the earliest step of the kind (the teacher) instead of the nearest."""
    every: bool = False
    """Take all earlier steps of these kinds, and what they make beside their own artifact."""


@dataclass(frozen=True)
class Control:
    """A comparison planned beside a step: the same step with `changes` to its configuration.

    It gets the step's own artifact as the further input `pace`, so that it can train exactly as long.
    """

    suffix: str
    row: str
    title: str
    changes: Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """One of several artifacts that a step makes of the same inputs; each is a step of the plan.

    The first part is the step itself and has no `suffix`; the others are `<step>-<suffix>`.
    """

    changes: Mapping[str, Any]
    suffix: str = ""
    title: str = ""
    of_float: bool = False
    """It is made of the model that the step's own model was quantized from."""


def _whole(config: StageConfig) -> Sequence[Part]:
    return (Part({}),)


def _nothing_before(config: StageConfig) -> Sequence[tuple[str, StageConfig]]:
    return ()


def _can_do_without(config: StageConfig, known: bool) -> None:
    return None


Inputs = Mapping[str, Sequence[Artifact]]


@dataclass(frozen=True)
class KnownData:
    """What checks know of the data; `outline` is None where only opening the data tells."""

    source: Source
    outline: Outline | None
    limits: Sequence[Limit] = ()
    """The gate's."""


@dataclass(frozen=True)
class KnownStep:
    """A planned step as checks see it: its configuration, and by input the steps that feed it."""

    stage: str
    config: Any
    inputs: Mapping[str, Sequence[KnownStep]] = field(default_factory=dict)


Check = Callable[[KnownData, Any, Mapping[str, Sequence[KnownStep]]], Any]


@dataclass(frozen=True)
class Product:
    """What a stage made: files in its step folder and plain facts. No fact may depend on the clock.

    `measured` is what does: timings that led to a decision. They are kept beside the step's key and shown in
    reports, but are no part of the artifact, so that the same decision gives the same artifact.
    """

    kind: Kind
    facts: Mapping[str, Any]
    files: Sequence[str]
    measured: Mapping[str, Any] = field(default_factory=dict)


C = TypeVar("C", bound=StageConfig)


def _no_controls(config: StageConfig) -> Sequence[Control]:
    return ()


@dataclass(frozen=True)
class Stage:
    """A kind of work. `run` imports what is heavy itself, so that planning stays light.

    `reads` names what else the result depends on: `data` (or `labeled_data`, without unlabeled images),
    `limits` (the gate's), `targets`, `plans`.
    `sources` and `libraries` are the packages whose code and versions are part of the step's key.
    """

    name: str
    summary: str
    config: type[StageConfig]
    run: Callable[[StageContext, Any, Inputs], Product]
    produces: Kind
    inputs: tuple[Input, ...] = ()
    reads: tuple[str, ...] = ("data",)
    sources: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    row: str | None = None
    title: str = ""
    controls: Callable[[Any], Sequence[Control]] = field(default=_no_controls)
    parts: Callable[[Any], Sequence[Part]] = field(default=_whole)
    ablations: Callable[[Any, Mapping[str, Sequence[Any]]], Sequence[Control]] | None = None
    """(configuration, steps by input) -> one control for each part of the step that can be left out.

    Planned by `edgekd ablate` alone. Raises `UsageError` where nothing can be left out.
    """
    before: Callable[[Any], Sequence[tuple[str, StageConfig]]] = field(default=_nothing_before)
    """Stages that must run earlier, with the configuration the plan inserts them with where there is none."""
    requires: str | None = "train"
    """The extra whose packages `run` needs."""
    quantizes: bool = False
    """Its model computes in integers; the model it was made from does not."""
    estimate: Callable[[Any, int], float] | None = None
    """(configuration, number of training images) -> a rough number of seconds, before it was ever run."""
    check: Check | None = None
    """Raises `UsageError` for what cannot work, before any compute is spent; may import heavily.

    It gets what is known of the data, the configuration, and by input the steps that feed it.
    """
    without_target: Callable[[Any, bool], str | None] = field(default=_can_do_without)
    """(configuration, whether a target's facts are known) -> why it must be reached, or None."""
