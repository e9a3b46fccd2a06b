"""The engine in the real loop: loader, checkpoints, time budget, registered networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekd.core.errors import StoppedError
from edgekd.core.preprocess import Preprocess
from edgekd.core.spec import ModelSpec, NetworkSpec
from edgekd.data.array_images import ArrayImages
from edgekd.data.loader import Loader
from edgekd.data.split import Split
from edgekd.distill.compose import build_program
from edgekd.distill.engine import Engine
from edgekd.distill.launch import make_engine
from edgekd.distill.participant import Participant
from edgekd.distill.settings import DistillSettings
from edgekd.networks.initialize import init_weights
from edgekd.networks.model import build_model
from edgekd.testing.tiny_networks import IMAGE_SHAPE, LABELS, tiny_images
from edgekd.testing.tiny_runs import validation_arrays
from edgekd.train.loop import fit
from tests.distill.building import RULES, differ, weights


def resnet(width: float, name: str) -> Participant:
    network = NetworkSpec(
        name="resnet_cifar", args={"depth": 8, "width": width}, num_classes=4, in_channels=3
    )
    preprocess = Preprocess(size=(8, 8), mean=(0.5,) * 3, std=(0.25,) * 3)
    model = build_model(ModelSpec(network=network, preprocess=preprocess, labels=LABELS))
    init_weights(model.module, 0, name)
    return Participant.of(model)


def engine(method: str) -> Engine:
    student, teacher = resnet(0.25, "student"), resnet(0.5, "teacher")
    program = build_program(
        DistillSettings(method=method),  # type: ignore[arg-type]
        num_teachers=1,
        student_taps=list(student.taps),
        teacher_taps=[list(teacher.taps)],
    )
    return make_engine(
        program,
        student=student,
        teachers=[teacher],
        validation=validation_arrays(),
        image_shape=IMAGE_SHAPE,
        rules=RULES,
        seed=0,
        ema=0.9,
    )


def loader() -> Loader:
    images, labels = tiny_images(96)
    pixels = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    split = Split("train", ArrayImages(np.ascontiguousarray(pixels)), labels.numpy())
    return Loader(split, image_size=(8, 8), channels=3, batch_size=32, seed=0, augment=None)


def test_a_stopped_training_ends_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole = engine("fitnets")
    fit(whole, loader(), seed=0, num_epochs=4)
    calls = iter(range(100))
    with pytest.raises(StoppedError):
        fit(
            engine("fitnets"),
            loader(),
            seed=0,
            num_epochs=4,
            checkpoint_dir=tmp_path,
            should_stop=lambda: next(calls) == 5,
        )
    resumed = engine("fitnets")
    result = fit(resumed, loader(), seed=0, num_epochs=4, checkpoint_dir=tmp_path)
    assert result.resumed_at == 5
    assert differ(whole.deployed().state_dict(), resumed.deployed().state_dict()) == set()


def test_probing_the_pace_through_all_phases_leaves_no_trace() -> None:
    """A time budget is turned into epochs by steps that are undone."""
    probed = engine("fitnets")
    before = probed.state()
    for role in probed.program.changing:
        assert differ(before["roles"][role], weights(probed, role)) == set()
    fit(probed, loader(), seed=0, num_epochs=1)
    probed.load_state(before)
    fresh = engine("fitnets")
    for run in (probed, fresh):
        fit(run, loader(), seed=0, num_epochs=2)
    assert differ(probed.deployed().state_dict(), fresh.deployed().state_dict()) == set()


def test_the_control_sees_the_same_batches_and_start() -> None:
    distilled, control = engine("kd"), engine("none")
    assert differ(weights(distilled, "student"), weights(control, "student")) == set()
    batches = [[batch.indices.tolist() for batch in loader().epoch(0)] for _ in range(2)]
    assert batches[0] == batches[1]
