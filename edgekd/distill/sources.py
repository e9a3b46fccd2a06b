"""Where a turn's batches come from: the loop's loader, another stream, or a role that makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from edgekd.data.batch import Batch

if TYPE_CHECKING:
    from edgekd.distill.context import Context, Stream


LOOP = ""
"""The loop's own batches, where a stream could be named."""


class Source(Protocol):
    """Draws one batch per update. `outputs` (role -> taps) and `roles` name the roles it runs.

    `supplies` says whose batches it takes: stream (or `LOOP`) -> those of a turn's `views` that it carries.
    """

    @property
    def outputs(self) -> Mapping[str, tuple[str, ...]]: ...

    @property
    def roles(self) -> tuple[str, ...]: ...

    def supplies(self, views: Sequence[str]) -> Mapping[str, tuple[str, ...]]: ...

    def draw(self, context: Context, given: Batch) -> Batch:
        """A batch for this update; `given` is the loop's batch. Must depend on nothing but its arguments."""
        ...


@dataclass(frozen=True)
class Labeled:
    """The loop's own batch."""

    outputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    roles: tuple[str, ...] = ()

    def supplies(self, views: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
        return {LOOP: tuple(views)}

    def draw(self, context: Context, given: Batch) -> Batch:
        return given


@dataclass(frozen=True)
class Named:
    """The batch of a further stream (for example unlabeled images) handed to the engine as `name`."""

    name: str
    outputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    roles: tuple[str, ...] = ()

    def supplies(self, views: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
        return {self.name: tuple(views)}

    def draw(self, context: Context, given: Batch) -> Batch:
        return context.stream(self.name)


@dataclass(frozen=True)
class Beside:
    """The loop's batch, with the views of the stream `name` beside it as `<name>:x`, `<name>:x2`, ...

    So that one update learns from labeled and unlabeled images; the two may differ in number.
    """

    name: str
    outputs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    roles: tuple[str, ...] = ()

    def supplies(self, views: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
        prefix = f"{self.name}:"
        beside = tuple(view.removeprefix(prefix) for view in views if view.startswith(prefix))
        return {LOOP: tuple(view for view in views if not view.startswith(prefix)), self.name: beside}

    def draw(self, context: Context, given: Batch) -> Batch:
        others = {f"{self.name}:{view}": images for view, images in context.stream(self.name).views.items()}
        return replace(given, views=given.views | others, variant=None)


@dataclass(frozen=True)
class Generated:
    """Images that the role `role` makes from standard normal latents `[B, latent_size]`.

    B is the loop's; the role returns images in [0, 1]. The labels and indices of the batch are -1. Gradient
    reaches the generator in the turns that train it.
    """

    role: str
    latent_size: int

    @property
    def outputs(self) -> Mapping[str, tuple[str, ...]]:
        return {}

    @property
    def roles(self) -> tuple[str, ...]:
        return (self.role,)

    def supplies(self, views: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
        return {}

    def draw(self, context: Context, given: Batch) -> Batch:
        size = len(given.labels)
        world, generator = context.world, context.generator("source", self.role)
        latent = world.rows(torch.randn(size * world.size, self.latent_size, generator=generator))
        unknown = torch.full_like(given.labels, -1)
        images = context.call(self.role, latent.to(given.views["x"]))
        return Batch({"x": images}, unknown, unknown)


class PlacedStream:
    """A stream whose batches lie where the networks do; asked twice for one, it gives the same object."""

    def __init__(self, stream: Stream, place: Callable[[Tensor], Tensor]) -> None:
        self._stream = stream
        self._place = place
        self._given: Batch | None = None
        self._placed: Batch | None = None

    def batch(self, number: int) -> Batch:
        given = self._stream.batch(number)
        if self._placed is None or given is not self._given:
            self._given, self._placed = given, given.placed(self._place)
        return self._placed


class EpochLoader(Protocol):
    """What a stream is made of; `edgekd.data.loader.Loader` is one."""

    def __len__(self) -> int: ...

    def epoch(self, number: int, *, start: int = 0) -> Iterator[Batch]: ...


class LoaderStream:
    """An endless stream over a loader's epochs. Any batch can be asked for; the next one costs nothing."""

    def __init__(self, loader: EpochLoader) -> None:
        self._loader = loader
        self._last = -1
        self._iterator: Iterator[Batch] = iter(())
        self._batch: Batch | None = None

    def batch(self, number: int) -> Batch:
        """Batch `number` from 0, counted over all epochs."""
        if number == self._last and self._batch is not None:
            return self._batch
        epoch, place = divmod(number, len(self._loader))
        if number != self._last + 1 or place == 0:
            self._iterator = self._loader.epoch(epoch, start=place)
        self._last, self._batch = number, next(self._iterator)
        return self._batch
