"""The training loop: epochs, evaluation, checkpoints, and continuing from them bit for bit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekd.core.errors import DataError, DivergedError, StoppedError, UsageError
from edgekd.core.events import Emit
from edgekd.data.batch import Batch
from edgekd.train.checkpoint import Checkpoints
from edgekd.train.interruption import Interruption
from edgekd.train.pace import epochs_within
from edgekd.train.record import LEARNING_RATE, FitResult, Record
from edgekd.train.seeding import seed_step
from edgekd.train.trainable import BatchLoader, Position, Trainable
from edgekd.train.world import ALONE, World

PROGRESS_EVERY_S = 0.5


def _silent(event: Mapping[str, Any]) -> None:
    pass


def fit(
    trainable: Trainable,
    loader: BatchLoader,
    *,
    seed: int,
    num_epochs: int | None = None,
    time_s: float | None = None,
    checkpoint_dir: Path | None = None,
    emit: Emit = _silent,
    should_stop: Callable[[], bool] = lambda: False,
    evaluate_every: int = 1,
    checkpoint_every_s: float = 30.0,
    world: World = ALONE,
) -> FitResult:
    """Train for `num_epochs`, or for as many whole epochs as fit into `time_s` seconds.

    Evaluates after every `evaluate_every`-th epoch and the last; of equal accuracies the later epoch is kept.
    With a `checkpoint_dir` the state is saved after every epoch and every `checkpoint_every_s` seconds, and a
    later call with the same arguments continues there: the weights come out as if it had never stopped.

    Raises `StoppedError` (after saving) when `should_stop()` is true between two steps; `KeyboardInterrupt`
    likewise (of several processes the leading one decides, and writes the checkpoints that all go on from);
    `DivergedError` for a value that is not finite (the last good checkpoint stays).
    """
    _check(loader, num_epochs, time_s, evaluate_every)
    if num_epochs is None:
        assert time_s is not None
        num_epochs = epochs_within(trainable, loader, time_s=time_s, seed=seed, folder=checkpoint_dir)
    identity = {"seed": seed, "num_epochs": num_epochs, "steps_per_epoch": len(loader)}
    checkpoints = Checkpoints(checkpoint_dir, identity, emit) if checkpoint_dir else None
    run = _Run(
        trainable, loader, seed, num_epochs, checkpoints, emit, evaluate_every, checkpoint_every_s, world
    )
    return run.run(should_stop)


def _check(loader: BatchLoader, num_epochs: int | None, time_s: float | None, evaluate_every: int) -> None:
    if (num_epochs is None) == (time_s is None):
        raise UsageError("give either a number of epochs or a training time")
    if (num_epochs is not None and num_epochs < 1) or evaluate_every < 1:
        raise UsageError("the number of epochs and `evaluate_every` must be at least 1")
    if len(loader) == 0:
        raise DataError("the training data gives no batch", fix="use a smaller batch size or more images")


@dataclass
class _Run:
    """One call of `fit`."""

    trainable: Trainable
    loader: BatchLoader
    seed: int
    num_epochs: int
    checkpoints: Checkpoints | None
    emit: Emit
    evaluate_every: int
    checkpoint_every_s: float
    world: World
    record: Record = field(default_factory=Record)
    saved_at: float = field(default_factory=time.monotonic)
    told_at: float = -math.inf
    clock: float = field(default_factory=time.perf_counter)

    @property
    def num_steps(self) -> int:
        return self.num_epochs * len(self.loader)

    def run(self, should_stop: Callable[[], bool]) -> FitResult:
        resumed_at = self._resume()
        with Interruption() as interruption:
            while self.record.step < self.num_steps:
                self._epoch(should_stop, interruption)
            if interruption.asked:
                raise KeyboardInterrupt
        return FitResult(
            history=tuple(self.record.history),
            num_steps=self.num_steps,
            num_epochs=self.num_epochs,
            best_epoch=self.record.best_epoch,
            best_accuracy=self.record.best_accuracy,
            resumed_at=resumed_at,
        )

    def _resume(self) -> int | None:
        checkpoint = self.checkpoints.load() if self.checkpoints else None
        if checkpoint is None:
            return None
        self.trainable.load_state(checkpoint.content["trainable"])
        self.record = Record.of_state(checkpoint.content["record"])
        self.emit({"event": "note", "text": f"training continues at step {checkpoint.step}"})
        return checkpoint.step

    def _epoch(self, should_stop: Callable[[], bool], interruption: Interruption) -> None:
        self._lap()
        number, start = divmod(self.record.step, len(self.loader))
        for batch in self.loader.epoch(number, start=start):
            self._pause_if_asked(should_stop, interruption)
            self._step(batch)
            if self.record.step % len(self.loader) == 0:
                self._close_epoch()
                return
            self._save_if_due()
        raise DataError(f"epoch {number + 1} ended after {self.record.step % len(self.loader)} batches")

    def _pause_if_asked(self, should_stop: Callable[[], bool], interruption: Interruption) -> None:
        if self.world.told(interruption.asked):
            self._save()
            raise KeyboardInterrupt
        if self.world.told(should_stop()):
            self._save()
            raise StoppedError(
                f"training stopped after step {self.record.step} of {self.num_steps}",
                fix="run the same command again to continue",
            )

    def _step(self, batch: Batch) -> None:
        step = self.record.step
        position = Position(step, self.num_steps, step // len(self.loader), self.num_epochs)
        seed_step(self.seed, position.step)
        try:
            values = self.trainable.step(batch, position)
            _refuse_infinite(values, position)
        except DivergedError as error:
            raise self._explained(error) from error
        self.record.add(values, self._lap())
        self._tell(values)

    def _close_epoch(self) -> None:
        last = self.record.step - 1
        position = Position(last, self.num_steps, last // len(self.loader), self.num_epochs)
        self.trainable.end_epoch(position)
        accuracy = self._evaluate(position.epoch + 1)
        epoch = self.record.close_epoch(position, accuracy, self._lap())
        self.emit(epoch.as_event())
        self._save()

    def _evaluate(self, epoch: int) -> float | None:
        if epoch % self.evaluate_every and epoch != self.num_epochs:
            return None
        accuracy = self.trainable.evaluate()
        if accuracy >= self.record.best_accuracy:
            self.record.best_accuracy, self.record.best_epoch = accuracy, epoch
            self.trainable.keep()
        return accuracy

    def _lap(self) -> float:
        """Seconds since the last call."""
        before, self.clock = self.clock, time.perf_counter()
        return self.clock - before

    def _save_if_due(self) -> None:
        if time.monotonic() - self.saved_at >= self.checkpoint_every_s:
            self._save()

    def _save(self) -> None:
        if self.checkpoints is None or not self.world.leads:
            return
        content = {"trainable": self.trainable.state(), "record": self.record.state()}
        try:
            self.checkpoints.save(self.record.step, content)
        except DivergedError as error:
            raise self._explained(error) from error
        self.saved_at = time.monotonic()

    def _tell(self, values: Mapping[str, float]) -> None:
        now = time.monotonic()
        if now - self.told_at < PROGRESS_EVERY_S and self.record.step < self.num_steps:
            return
        self.told_at = now
        epoch = (self.record.step - 1) // len(self.loader) + 1
        told = {name: value for name, value in values.items() if name != LEARNING_RATE}
        terms = ", ".join(f"{name} {value:.4g}" for name, value in told.items())
        text = f"epoch {epoch}/{self.num_epochs}: {terms}"
        self.emit({"event": "progress", "done": self.record.step, "total": self.num_steps, "text": text})

    def _explained(self, error: DivergedError) -> DivergedError:
        newest = self.checkpoints.newest() if self.checkpoints else None
        kept = f"; the last good checkpoint is {newest}" if newest else ""
        return DivergedError(
            error.what,
            where=error.where,
            choices=error.choices,
            fix=(error.fix or "lower the learning rate or raise the warm-up") + kept,
        )


def _refuse_infinite(values: Mapping[str, float], position: Position) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise DivergedError(
                f"training diverged: the term `{name}` is {value}",
                where=f"step {position.step}, epoch {position.epoch + 1}",
            )
