"""A time budget becomes a number of epochs once, without touching what is trained."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from edgekd.core.errors import StoppedError, StoreError, UsageError
from edgekd.data.batch import Batch
from edgekd.train.pace import epochs_within
from edgekd.train.trainable import Position
from tests.train.plain import PlainTraining, train


class Slow(PlainTraining):
    """A step takes 20 ms at least."""

    def step(self, batch: Batch, position: Position) -> dict[str, float]:
        time.sleep(0.02)
        return super().step(batch, position)


def within(trainable: PlainTraining, time_s: float, folder: Path | None = None) -> int:
    return epochs_within(trainable, trainable.data, time_s=time_s, seed=7, folder=folder)


def test_the_budget_is_kept() -> None:
    # Six steps of at least 20 ms: at most 41 epochs fit into 5 s, however slow the machine.
    assert 1 <= within(Slow(), 5.0) <= 41


def test_one_epoch_is_the_least() -> None:
    assert within(Slow(), 0.001) == 1


def test_timing_leaves_the_training_where_it_was() -> None:
    trainable = PlainTraining()
    before = trainable.weights()
    within(trainable, 1.0)
    assert trainable.weights() == before


def test_a_timed_training_equals_one_of_as_many_epochs(tmp_path: Path) -> None:
    timed, counted = PlainTraining(), PlainTraining()
    result = train(tmp_path, timed, num_epochs=None, time_s=0.3, checkpoint_every_s=1e9)
    train(None, counted, num_epochs=result.num_epochs)
    assert timed.weights() == counted.weights()


def test_a_resumed_training_keeps_the_length_decided_first(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        train(tmp_path, num_epochs=None, time_s=0.3, should_stop=lambda: True)
    decided = json.loads((tmp_path / "pace.json").read_text())["num_epochs"]
    assert train(tmp_path, Slow(), num_epochs=None, time_s=0.3).num_epochs == decided


def test_another_budget_is_decided_anew(tmp_path: Path) -> None:
    first = within(Slow(), 0.5, tmp_path)
    assert within(Slow(), 5.0, tmp_path) > first


def test_an_unreadable_decision_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "pace.json").write_text("{")
    with pytest.raises(StoreError, match="not readable"):
        within(PlainTraining(), 1.0, tmp_path)


@pytest.mark.parametrize("time_s", [0.0, -1.0, float("nan")])
def test_the_budget_must_be_positive(time_s: float) -> None:
    with pytest.raises(UsageError, match="positive"):
        within(PlainTraining(), time_s)
