"""A space of students: families of networks over widths, depths and resolutions, listed as candidates."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field, field_validator

from edgekd.core.config import Config
from edgekd.core.digest import of_data
from edgekd.core.errors import UsageError
from edgekd.core.preprocess import Preprocess
from edgekd.core.spec import NetworkSpec

LARGEST_FACTOR = 4.0
"""A resolution up to this is a factor of the data's size, above it a height in pixels."""
SMALLEST_SIDE = 4
"""Pixels; no image is made smaller than this by a factor."""

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Candidate(Config):
    """One student that may be chosen: an untrained network with its own input size."""

    id: str
    spec: NetworkSpec
    preprocess: Preprocess

    @property
    def resolution(self) -> tuple[int, int]:
        """(height, width) of its input, in pixels."""
        return self.preprocess.size


class Family(Config):
    """One network over `depth` x `width` x further `axes` x `resolution`; `args` are the same for all.

    A resolution up to 4 is a factor of the data's size (`0.75`), a larger one the height in pixels (`24`;
    the width keeps the data's aspect). An empty `depth` or `width` leaves the network's default.
    """

    network: str
    depth: tuple[int | Positive, ...] = ()
    width: tuple[Positive, ...] = ()
    resolution: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1.0,)
    axes: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = {}
    args: dict[str, Any] = {}

    @field_validator("resolution")
    @classmethod
    def _whole_pixels(cls, resolution: tuple[float, ...]) -> tuple[float, ...]:
        for value in resolution:
            if value > LARGEST_FACTOR and value != int(value):
                raise ValueError(f"{value} is neither a factor (up to {LARGEST_FACTOR}) nor whole pixels")
        return resolution

    def _choices(self) -> dict[str, tuple[Any, ...]]:
        named = {"depth": self.depth, "width": self.width}
        return {**{name: values for name, values in named.items() if values}, **self.axes}

    def lists(self) -> list[tuple[Any, ...]]:
        """The values of every searched argument and of the resolution."""
        return [*self._choices().values(), self.resolution]

    def combinations(self) -> Iterator[tuple[dict[str, Any], float]]:
        """(searched arguments, resolution as written) in the order of the lists, the last varying fastest."""
        choices = self._choices()
        for *values, resolution in itertools.product(*self.lists()):
            yield dict(zip(choices, values, strict=True)), resolution


class Space(Config):
    """The union of families, in order."""

    families: Annotated[tuple[Family, ...], Field(min_length=1)]

    def candidates(
        self, *, num_classes: int, in_channels: int, preprocess: Preprocess
    ) -> tuple[Candidate, ...]:
        """Every candidate once, in order. `preprocess` is that of the data at full size; its size is scaled.

        Raises `UsageError` when two different candidates would get one id.
        """
        found: dict[str, Candidate] = {}
        for family in self.families:
            for searched, resolution in family.combinations():
                args = {**family.args, **searched}
                spec = NetworkSpec(
                    name=family.network, args=args, num_classes=num_classes, in_channels=in_channels
                )
                size = resized(preprocess.size, resolution)
                candidate = Candidate(
                    id=candidate_id(spec, searched, size),
                    spec=spec,
                    preprocess=preprocess.model_copy(update={"size": size}),
                )
                _add(found, candidate)
        return tuple(found.values())


def _add(found: dict[str, Candidate], candidate: Candidate) -> None:
    """Keep the first of two equal candidates (two factors may round to the same size)."""
    if found.setdefault(candidate.id, candidate) != candidate:
        raise UsageError(
            f"two different candidates are called `{candidate.id}`",
            where="space",
            fix="search the argument in which they differ on one axis of one family",
        )


def resized(size: tuple[int, int], resolution: float) -> tuple[int, int]:
    """(height, width) for a factor of `size` or for a height in pixels."""
    factor = resolution if resolution <= LARGEST_FACTOR else resolution / size[0]
    height, width = (max(SMALLEST_SIDE, round(side * factor)) for side in size)
    return height, width


def candidate_id(spec: NetworkSpec, searched: dict[str, Any], size: tuple[int, int]) -> str:
    """A readable name that is also a file name: `resnet_cifar-depth20-width0.5-24x24`.

    Fixed arguments are told apart by a digest, because they are the same for a whole family.
    """
    fixed = {name: value for name, value in spec.args.items() if name not in searched}
    parts = [_word(spec.name), *(f"{name}{_word(value)}" for name, value in searched.items())]
    if fixed:
        parts.append(of_data(fixed)[:6])
    return "-".join([*parts, f"{size[0]}x{size[1]}"])


def _word(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if text.replace(".", "").replace("_", "").isalnum() else of_data(value)[:6]
