"""The record of a training: its epochs, the best of them, and the sums of the one under way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from edgekd.train.trainable import Position

LEARNING_RATE = "learning_rate"


@dataclass(frozen=True)
class EpochRecord:
    """One epoch, counted from 1. `train` holds each term's mean over the epoch's steps.

    `val_accuracy` in [0, 1] is None for an epoch that was not evaluated; `learning_rate` is the last step's.
    """

    epoch: int
    num_epochs: int
    seconds: float
    train: dict[str, float]
    val_accuracy: float | None
    learning_rate: float | None

    def as_event(self) -> dict[str, Any]:
        return {"event": "epoch", **asdict(self)}


@dataclass(frozen=True)
class FitResult:
    """What a training came to. `best_epoch` is the one kept (`Trainable.keep`), counted from 1."""

    history: tuple[EpochRecord, ...]
    num_steps: int
    num_epochs: int
    best_epoch: int
    best_accuracy: float
    resumed_at: int | None
    """The step that this call continued from, or None."""


@dataclass
class Record:
    """Everything the loop has to remember; part of the checkpoint."""

    step: int = 0
    history: list[EpochRecord] = field(default_factory=list)
    best_epoch: int = 0
    best_accuracy: float = -1.0
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    learning_rate: float | None = None
    seconds: float = 0.0
    """Spent on the epoch under way, over all sessions."""

    def add(self, values: Mapping[str, float], seconds: float) -> None:
        """Take in one step."""
        self.step += 1
        self.seconds += seconds
        for name, value in values.items():
            if name == LEARNING_RATE:
                self.learning_rate = value
            else:
                self.sums[name] = self.sums.get(name, 0.0) + value
                self.counts[name] = self.counts.get(name, 0) + 1

    def close_epoch(self, position: Position, val_accuracy: float | None, seconds: float) -> EpochRecord:
        """Finish the epoch under way and start the next."""
        record = EpochRecord(
            epoch=position.epoch + 1,
            num_epochs=position.num_epochs,
            seconds=self.seconds + seconds,
            train={name: total / self.counts[name] for name, total in self.sums.items()},
            val_accuracy=val_accuracy,
            learning_rate=self.learning_rate,
        )
        self.history.append(record)
        self.sums, self.counts, self.seconds = {}, {}, 0.0
        return record

    def state(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_state(cls, state: dict[str, Any]) -> Record:
        history = [EpochRecord(**epoch) for epoch in state["history"]]
        return cls(**{**state, "history": history})
