"""What a step's training is fed: the batches, views and streams that its program asks for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgekd.core.errors import UsageError
from edgekd.data.sampling import SAME_CLASS
from edgekd.data.sources.digits import Digits
from edgekd.distill.compose import build_program
from edgekd.distill.program import Given, Phase, Program, Train, Turn
from edgekd.distill.settings import DistillSettings
from edgekd.distill.sources import Named
from edgekd.stages.context import Data, StageContext
from edgekd.stages.training import make_loader, make_streams
from edgekd.stages.training_settings import TrainingConfig
from edgekd.store.store import Store
from edgekd.testing.tiny_networks import TinyNet
from tests.distill.building import task

TAPS = tuple(TinyNet().taps)
CONFIG = TrainingConfig(batch_size=40)


def context(folder: Path, **settings: Path) -> StageContext:
    source = Digits(**settings)
    return StageContext(
        folder=folder,
        seed=3,
        data=Data(source.open(0), source, Store(folder / "store")),
        targets=(),
        limits=(),
        journal=lambda name, compute: compute(),
        emit=lambda event: None,
        should_stop=lambda: False,
    )


def program(*methods: str) -> Program:
    settings = DistillSettings(method=methods)
    return build_program(settings, num_teachers=1, student_taps=TAPS, teacher_taps=[TAPS])


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "more"
    folder.mkdir()
    for number in range(24):
        Image.fromarray(np.full((9, 9), number * 10, np.uint8)).save(folder / f"{number:02d}.png")
    return folder


def test_a_method_gets_the_views_it_asks_for(tmp_path: Path) -> None:
    batch = next(make_loader(context(tmp_path), CONFIG, program("cs-kd")).epoch(0))
    assert set(batch.views) == {"x", SAME_CLASS}
    assert not torch.equal(batch.views["x"], batch.views[SAME_CLASS])


def test_a_method_gets_the_batches_it_asks_for(tmp_path: Path) -> None:
    uniform = make_loader(context(tmp_path), CONFIG, program("cckd"))
    assert all(batch.labels.bincount().tolist() == [4] * 10 for batch in uniform.epoch(0))
    shuffled = make_loader(context(tmp_path), CONFIG, program("kd"))
    assert any(batch.labels.bincount(minlength=10).tolist() != [4] * 10 for batch in shuffled.epoch(0))
    assert len(uniform) == len(shuffled)


def test_unlabeled_images_come_in_the_views_asked_for_and_in_an_order_of_their_own(
    tmp_path: Path, images: Path
) -> None:
    """24 images are fewer than a labeled batch: then all of them make one."""
    given = context(tmp_path, unlabeled=images)
    streams = make_streams(given, CONFIG, program("noisy-student"))
    batch = streams["unlabeled"].batch(0)
    assert set(batch.views) == {"x", "x2"}
    assert batch.views["x"].shape == (24, 1, 8, 8)
    assert set(batch.labels.tolist()) == {-1}
    smaller = make_streams(given, TrainingConfig(batch_size=10), program("noisy-student"))["unlabeled"]
    assert len(smaller.batch(0).labels) == 10
    assert smaller.batch(0).indices.tolist() != smaller.batch(2).indices.tolist()


def test_who_does_not_draw_on_unlabeled_images_gets_none(tmp_path: Path, images: Path) -> None:
    assert make_streams(context(tmp_path, unlabeled=images), CONFIG, program("kd")) == {}
    assert make_streams(context(tmp_path), CONFIG, program("kd")) == {}


def test_missing_unlabeled_images_are_named_with_the_key_that_gives_them(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"images without labels(.|\n)*data: \{unlabeled: folder/\}"):
        make_streams(context(tmp_path), CONFIG, program("noisy-student"))


def test_a_stream_that_no_recipe_gives_is_refused(tmp_path: Path, images: Path) -> None:
    turn = Turn((Train("student"),), (task(),), Named("video"))
    strange = Program({"student": Given()}, (Phase("main", (turn,)),))
    with pytest.raises(UsageError, match="`video`"):
        make_streams(context(tmp_path, unlabeled=images), CONFIG, strange)
