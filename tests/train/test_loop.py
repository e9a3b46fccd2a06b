"""The loop: what it reports, how it stops, and that continuing is as if it had never stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from edgekd.core.errors import DataError, DivergedError, StoppedError, UsageError
from edgekd.data.batch import Batch
from edgekd.train.loop import fit
from edgekd.train.seeding import reproducible
from edgekd.train.trainable import Position
from tests.train.plain import NoisyLoader, PlainTraining, train

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with reproducible(1):
        yield


@pytest.fixture(scope="module")
def uninterrupted() -> bytes:
    with reproducible(1):
        trainable = PlainTraining()
        train(None, trainable)
        return trainable.weights()


class Acting(PlainTraining):
    """Does something at the beginning of one step."""

    def __init__(self, at: int, act: Callable[[], None]) -> None:
        super().__init__()
        self.at, self.act = at, act

    def step(self, batch: Batch, position: Position) -> dict[str, float]:
        values = super().step(batch, position)
        if position.step == self.at:
            self.act()
        return values


def stop_after(num_steps: int) -> Callable[[], bool]:
    calls = iter(range(1000))
    return lambda: next(calls) >= num_steps


def fail() -> None:
    raise OSError("the machine broke")


def test_the_same_seed_gives_the_same_weights_bit_for_bit(uninterrupted: bytes) -> None:
    trainable = PlainTraining()
    torch.manual_seed(12345)
    train(None, trainable)
    assert trainable.weights() == uninterrupted


def test_another_seed_gives_other_weights(uninterrupted: bytes) -> None:
    trainable = PlainTraining(seed=1)
    train(None, trainable)
    assert trainable.weights() != uninterrupted


@pytest.mark.parametrize("step", [0, 1, 5, 6, 7, 11, 12, 17])
def test_stopped_anywhere_it_continues_to_the_same_weights(
    tmp_path: Path, uninterrupted: bytes, step: int
) -> None:
    with pytest.raises(StoppedError):
        train(tmp_path, should_stop=stop_after(step))
    trainable = PlainTraining()
    assert train(tmp_path, trainable).resumed_at == step
    assert trainable.weights() == uninterrupted


def test_after_an_exception_in_a_step_it_continues_to_the_same_weights(
    tmp_path: Path, uninterrupted: bytes
) -> None:
    with pytest.raises(OSError, match="broke"):
        train(tmp_path, Acting(9, fail))
    trainable = PlainTraining()
    assert train(tmp_path, trainable).resumed_at == 9
    assert trainable.weights() == uninterrupted


def test_killed_with_sigkill_it_continues_to_the_same_weights(tmp_path: Path, uninterrupted: bytes) -> None:
    program = (
        "import os, signal, torch; from pathlib import Path\n"
        "from tests.train.test_loop import Acting; from tests.train.plain import train\n"
        "torch.set_num_threads(1)\n"
        f"train(Path({str(tmp_path)!r}), Acting(8, lambda: os.kill(os.getpid(), signal.SIGKILL)))\n"
    )
    killed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=100)
    assert killed.returncode == -signal.SIGKILL
    trainable = PlainTraining()
    assert train(tmp_path, trainable).resumed_at == 8
    assert trainable.weights() == uninterrupted


def test_ctrl_c_saves_after_the_step_and_then_interrupts(tmp_path: Path, uninterrupted: bytes) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, Acting(3, lambda: os.kill(os.getpid(), signal.SIGINT)), checkpoint_every_s=1e9)
    assert signal.getsignal(signal.SIGINT) is before
    trainable = PlainTraining()
    assert train(tmp_path, trainable).resumed_at == 4
    assert trainable.weights() == uninterrupted


def test_a_second_ctrl_c_interrupts_at_once(tmp_path: Path) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, Acting(3, twice), checkpoint_every_s=1e9)
    assert not list(tmp_path.iterdir())


def test_a_finished_training_is_not_repeated(tmp_path: Path, uninterrupted: bytes) -> None:
    first = train(tmp_path)
    trainable = Acting(0, fail)
    again = train(tmp_path, trainable)
    assert again.history == first.history
    assert trainable.weights() == uninterrupted


def test_epoch_means_do_not_depend_on_where_it_was_stopped(tmp_path: Path) -> None:
    expected = [epoch.train for epoch in train(None).history]
    with pytest.raises(StoppedError):
        train(tmp_path, should_stop=stop_after(8))
    assert [epoch.train for epoch in train(tmp_path).history] == expected


def test_a_non_finite_term_is_named_with_its_step_and_leaves_the_checkpoint(tmp_path: Path) -> None:
    class Diverging(PlainTraining):
        def step(self, batch: Batch, position: Position) -> dict[str, float]:
            values = super().step(batch, position)
            return values | ({"kd": float("nan")} if position.step == 7 else {})

    with pytest.raises(DivergedError, match=r"`kd` is nan") as caught:
        train(tmp_path, Diverging())
    assert "step 7" in str(caught.value)
    assert "checkpoint-000000007.pt" in str(caught.value)
    assert train(tmp_path).resumed_at == 7


def test_nan_weights_are_never_saved_over_a_good_checkpoint(tmp_path: Path) -> None:
    trainable = PlainTraining()

    def spoil() -> None:
        trainable.module[0].weight.data[0] = float("nan")

    spoiled = Acting(4, spoil)
    trainable = spoiled
    with pytest.raises(DivergedError, match=r"module\.0\.weight"):
        train(tmp_path, spoiled)
    assert train(tmp_path).resumed_at == 4


def test_events_tell_every_epoch_and_the_end_of_the_work() -> None:
    events: list[Any] = []
    train(None, emit=events.append)
    epochs = [event for event in events if event["event"] == "epoch"]
    assert [event["epoch"] for event in epochs] == [1, 2, 3]
    assert set(epochs[0]) == {
        "event",
        "epoch",
        "num_epochs",
        "seconds",
        "train",
        "val_accuracy",
        "learning_rate",
    }
    assert list(epochs[0]["train"]) == ["task"]
    progress = [event for event in events if event["event"] == "progress"]
    assert progress[-1]["done"] == progress[-1]["total"] == 18
    assert len(progress) < 10, "progress must be throttled"


def test_the_last_epoch_is_evaluated_whatever_the_interval() -> None:
    result = train(None, num_epochs=3, evaluate_every=2)
    assert [epoch.val_accuracy is not None for epoch in result.history] == [False, True, True]


def test_the_best_epoch_is_the_latest_of_the_best() -> None:
    class Scored(PlainTraining):
        scores = iter([0.5, 0.9, 0.9, 0.7])

        def evaluate(self) -> float:
            return next(self.scores)

    result = train(None, Scored(), num_epochs=4)
    assert (result.best_epoch, result.best_accuracy) == (3, 0.9)


def test_training_learns() -> None:
    result = train(None, num_epochs=8)
    assert result.best_accuracy > 0.9


def test_a_loader_without_batches_is_an_error() -> None:
    class Empty(NoisyLoader):
        def __len__(self) -> int:
            return 0

    with pytest.raises(DataError, match="no batch"):
        fit(PlainTraining(), Empty(), seed=0, num_epochs=1)


def test_a_loader_that_ends_early_is_an_error() -> None:
    class Short(NoisyLoader):
        def epoch(self, number: int, *, start: int = 0) -> Iterator[Batch]:
            return iter(list(super().epoch(number, start=start))[:-1])

    with pytest.raises(DataError, match="epoch 1 ended after 5 batches"):
        fit(PlainTraining(), Short(), seed=0, num_epochs=1)


@pytest.mark.parametrize("length", [{}, {"num_epochs": 1, "time_s": 1.0}, {"num_epochs": 0}])
def test_the_length_must_be_given_once_and_positive(length: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        fit(PlainTraining(), NoisyLoader(), seed=0, **length)
