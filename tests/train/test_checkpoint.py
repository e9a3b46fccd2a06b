"""Checkpoints: whole or not at all, never unpickled, the one before when the last is damaged."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from edgekd.core.errors import DivergedError, StoreError
from edgekd.train.checkpoint import Checkpoints
from tests.train.plain import PlainTraining, train


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("/tmp/edgekd-was-here"),))


def checkpoints(folder: Path, notes: list[Any] | None = None, **identity: Any) -> Checkpoints:
    return Checkpoints(folder, identity or {"seed": 0}, (notes if notes is not None else []).append)


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    content = {"a": torch.arange(3.0), "b": [1, {"c": None, "d": "text"}]}
    checkpoints(tmp_path).save(5, content)
    loaded = checkpoints(tmp_path).load()
    assert loaded is not None
    assert loaded.step == 5
    assert torch.equal(loaded.content["a"], content["a"])
    assert loaded.content["b"] == content["b"]


def test_two_are_kept_and_no_temporary_file_stays(tmp_path: Path) -> None:
    store = checkpoints(tmp_path)
    for step in (1, 2, 3):
        store.save(step, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoint-000000002.pt",
        "checkpoint-000000003.pt",
    ]


@pytest.mark.parametrize("keep", [0, 10, 66, -1])
def test_a_cut_short_file_falls_back_to_the_one_before(tmp_path: Path, keep: int) -> None:
    notes: list[Any] = []
    store = checkpoints(tmp_path, notes)
    store.save(1, {})
    store.save(2, {})
    newest = tmp_path / "checkpoint-000000002.pt"
    newest.write_bytes(newest.read_bytes()[:keep])
    loaded = store.load()
    assert loaded is not None
    assert loaded.step == 1
    assert "cut short" in notes[0]["text"]


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    store = checkpoints(tmp_path)
    store.save(1, {"a": torch.zeros(100)})
    path = tmp_path / "checkpoint-000000001.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    assert store.load() is None


def test_a_hostile_file_is_not_unpickled(tmp_path: Path) -> None:
    target = Path("/tmp/edgekd-was-here")
    target.unlink(missing_ok=True)
    payload = pickle.dumps(Hostile())
    digest = hashlib.sha256(payload).hexdigest().encode()
    (tmp_path / "checkpoint-000000001.pt").write_bytes(digest + b"\n" + payload)
    assert checkpoints(tmp_path).load() is None
    assert not target.exists()


def test_those_of_another_training_are_not_used(tmp_path: Path) -> None:
    notes: list[Any] = []
    checkpoints(tmp_path, seed=0).save(1, {})
    assert checkpoints(tmp_path, notes, seed=1).load() is None
    assert "another training" in notes[0]["text"]


def test_nan_is_refused_and_named(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"`module\.weight` holds NaN"):
        checkpoints(tmp_path).save(1, {"module": {"weight": torch.tensor([1.0, float("nan")])}})
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that even root cannot write to")
def test_a_folder_that_cannot_be_written_is_a_store_error() -> None:
    with pytest.raises(StoreError, match="cannot write"):
        checkpoints(Path("/proc/self/edgekd")).save(1, {})


def test_with_all_checkpoints_damaged_training_starts_again(tmp_path: Path) -> None:
    train(tmp_path, num_epochs=1)
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    trainable, expected = PlainTraining(), PlainTraining()
    assert train(tmp_path, trainable, num_epochs=1).resumed_at is None
    train(None, expected, num_epochs=1)
    assert trainable.weights() == expected.weights()
