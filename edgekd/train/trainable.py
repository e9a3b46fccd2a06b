"""What the training loop trains: anything that takes one step on one batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from edgekd.data.batch import Batch


@dataclass(frozen=True)
class Position:
    """Where training stands: `step` counts updates from 0 over all epochs."""

    step: int
    num_steps: int
    epoch: int
    num_epochs: int

    @property
    def fraction(self) -> float:
        """Share of the training that is done, in [0, 1)."""
        return self.step / self.num_steps


class BatchLoader(Protocol):
    """Where batches come from: the same epoch number gives the same batches."""

    def __len__(self) -> int:
        """Batches in an epoch."""
        ...

    def epoch(self, number: int, *, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from the one with index `start` on."""
        ...


class Trainable(Protocol):
    """One training run's content. The loop owns time, epochs and checkpoints; this owns what is learned."""

    def step(self, batch: Batch, position: Position) -> dict[str, float]:
        """One update; returns named term values. Raises `DivergedError` naming step and term.

        A value named `learning_rate` is recorded as that, not as a term.
        """
        ...

    def end_epoch(self, position: Position) -> None:
        """Called after the last step of an epoch, before evaluation."""
        ...

    def evaluate(self) -> float:
        """Validation accuracy, in [0, 1], of what would be deployed now."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything needed to continue bit for bit: nested dicts of tensors and plain values."""
        ...

    def load_state(self, state: dict[str, Any]) -> None:
        """Return to `state`, whatever has been trained since: also to the state before the first step."""
        ...

    def keep(self) -> None:
        """Remember the present deployable weights as the best so far (part of `state`)."""
        ...
