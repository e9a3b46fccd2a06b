"""DeepInversion: the batch norms' statistics against NumPy, the bank's blocks, and that no data are read."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgekd.core.errors import UsageError
from edgekd.distill.engine import Engine
from edgekd.distill.kernels.synthesize import statistics_mismatch
from edgekd.distill.method import Task
from edgekd.distill.methods.synthetic.bank import Bank, jittered
from edgekd.distill.methods.synthetic.deepinversion import BANK, INSPECTED, METHOD, Settings
from edgekd.distill.methods.synthetic.inspected import MOMENTS, Inspected, inspected
from edgekd.distill.participant import Participant
from edgekd.distill.program import Program
from edgekd.distill.validate import validate
from edgekd.testing.tiny_networks import IMAGE_SHAPE, NUM_CLASSES, TinyNet, tiny_batch, tiny_participant
from edgekd.testing.tiny_runs import trained_teacher
from edgekd.train.trainable import Position
from tests.distill.building import differ, engine_for, train, weights
from tests.distill.methods.watching import CHANCE, TAUGHT, assert_resumes

SMALL = {"num_blocks": 2, "block_size": 16}


def program(**settings: object) -> Program:
    built = METHOD.build(Settings.model_validate(SMALL | settings), TAUGHT)
    assert isinstance(built, Program)
    return built


def engine_of(**settings: object) -> Engine:
    return engine_for(program(**settings), teachers=[trained_teacher()])


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---- Statistics of the teacher's batch norms -----------------------------------------------------


def reference_mismatch(network: TinyNet, x: Tensor) -> float:
    """Stage by stage: what each batch norm is given against what it remembers, in NumPy."""
    total = 0.0
    for stage in cast("list[nn.Sequential]", network.stages):
        given = stage[0](x).detach().double().numpy()
        norm = cast(nn.BatchNorm2d, stage[1])
        mean, variance = (cast(Tensor, each).numpy() for each in (norm.running_mean, norm.running_var))
        total += float(np.linalg.norm(given.mean(axis=(0, 2, 3)) - mean))
        total += float(np.linalg.norm(given.var(axis=(0, 2, 3)) - variance))
        x = stage(x).detach()
    return total


def mismatch(participant: Participant, images: Tensor) -> float:
    module = cast(Inspected, participant.module)
    moments = participant.run(images, (MOMENTS,))[MOMENTS]
    return float(statistics_mismatch(moments, module.variances, module.sizes).detach())


def test_mismatch_is_that_of_the_networks_batch_norms() -> None:
    teacher = trained_teacher()
    teacher.module.eval()
    images = tiny_batch(0).views["x"]
    expected = reference_mismatch(cast(TinyNet, teacher.module), teacher.normalize(images))
    assert mismatch(inspected(teacher), images) == pytest.approx(expected, rel=1e-5)


def test_mismatch_is_zero_for_the_images_that_the_statistics_come_from() -> None:
    teacher, images = trained_teacher(), tiny_batch(0).views["x"]
    take_statistics(teacher, images)
    assert mismatch(inspected(teacher), images) == pytest.approx(0.0, abs=1e-4)
    assert mismatch(inspected(teacher), tiny_batch(5).views["x"]) > 0.1


def take_statistics(teacher: Participant, images: Tensor) -> None:
    """Running statistics become those of the images as evaluation mode sees them (biased variance)."""
    teacher.module.eval()
    x = teacher.normalize(images)
    with torch.no_grad():
        for stage in cast("list[nn.Sequential]", teacher.module.stages):
            given, norm = stage[0](x), cast(nn.BatchNorm2d, stage[1])
            cast(Tensor, norm.running_mean).copy_(given.mean(dim=(0, 2, 3)))
            cast(Tensor, norm.running_var).copy_(given.var(dim=(0, 2, 3), unbiased=False))
            x = stage(x)


def test_an_inspected_network_answers_as_before_and_keeps_no_hook() -> None:
    teacher, images = trained_teacher(), tiny_batch(0).views["x"]
    teacher.module.eval()
    watched = inspected(teacher)
    plain = teacher.run(images, ("logits",))["logits"]
    assert torch.equal(copy.deepcopy(watched).run(images, ("logits", MOMENTS))["logits"], plain)
    assert all(not layer._forward_pre_hooks for layer in watched.module.modules())


class Unused(nn.Module):
    """A classifier with a batch norm that its forward pass leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.aside = nn.BatchNorm2d(3), nn.BatchNorm2d(2)
        cast(Tensor, self.aside.running_var).fill_(7.0)
        self.flatten = nn.Flatten()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.flatten(self.used(x))
        return logits


def test_a_batch_norm_that_does_not_run_counts_nothing() -> None:
    images = tiny_batch(0).views["x"]
    values = images.double().numpy()
    expected = np.linalg.norm(values.mean(axis=(0, 2, 3))) + np.linalg.norm(values.var(axis=(0, 2, 3)) - 1)
    watched = inspected(Participant(Unused().eval()))
    assert mismatch(watched, images) == pytest.approx(expected, rel=1e-5)


def test_a_teacher_without_batch_norm_is_refused_before_training() -> None:
    folded = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(IMAGE_SHAPE)), NUM_CLASSES))
    given = {"student": tiny_participant(), "teacher": Participant(folded)}
    with pytest.raises(UsageError, match="no batch norm") as caught:
        validate(program(), given, IMAGE_SHAPE)
    assert "dafl" in str(caught.value)
    validate(program(), given | {"teacher": tiny_participant(8)}, IMAGE_SHAPE)


# ---- The bank ------------------------------------------------------------------------------------


def bank(num_blocks: int = 3, block_size: int = 5) -> Bank:
    torch.manual_seed(0)
    return Bank(num_blocks, block_size, IMAGE_SHAPE, NUM_CLASSES)


def test_a_bank_holds_every_class_as_often_and_images_in_range() -> None:
    images, classes = bank(2, 8).block(1)
    assert classes.tolist() == [0, 1, 2, 3] * 2
    assert float(images.detach().min()) >= 0 and float(images.detach().max()) <= 1


def test_rows_of_a_bank_are_the_images_of_its_blocks() -> None:
    whole = bank()
    images, classes = whole.rows(torch.tensor([14, 0, 6]))
    for place, (block, row) in enumerate([(2, 4), (0, 0), (1, 1)]):
        expected, names = whole.block(block)
        assert torch.equal(images[place], expected[row])
        assert classes[place] == names[row]


def test_jitter_rolls_within_its_part_of_the_side_and_mirrors_half_the_time() -> None:
    image = torch.arange(32.0).view(1, 1, 8, 4)
    moved = [jittered(image, 0.25, seeded(n)) for n in range(200)]
    legal = {
        tuple(image.roll((down, right), (2, 3)).flip([3] if flip else []).flatten().tolist())
        for down in range(-2, 3)
        for right in range(-1, 2)
        for flip in (False, True)
    }
    seen = {tuple(each.flatten().tolist()) for each in moved}
    assert seen <= legal and len(seen) > 25
    still = [torch.equal(jittered(image, 0.0, seeded(n)), image) for n in range(200)]
    assert 60 < sum(still) < 140


def test_an_update_changes_one_block_and_the_blocks_take_turns() -> None:
    engine = engine_of()
    for step, block in ((0, 0), (1, 1), (2, 0)):
        before = weights(engine, BANK)
        train(engine, 16, steps=[step])
        assert differ(before, weights(engine, BANK)) == {f"blocks.{block}"}


# ---- Phases --------------------------------------------------------------------------------------


def test_images_learn_first_and_rest_while_the_student_learns_from_them() -> None:
    engine = engine_of(image_share=0.5)
    names = ("student", "teacher", INSPECTED, BANK)
    for steps, learning in ((range(4), {BANK}), (range(4, 8), {"student"})):
        before = {name: weights(engine, name) for name in names}
        train(engine, 8, steps=steps)
        assert {name for name in names if differ(before[name], weights(engine, name))} == learning


def test_no_image_and_no_label_of_the_data_is_read() -> None:
    one, other = engine_of(image_share=0.5), engine_of(image_share=0.5)
    for step in range(4):
        given, position = tiny_batch(step), Position(step, 4, 0, 1)
        ruined = replace(given, views={"x": 1 - given.views["x"]}, labels=3 - given.labels)
        assert one.step(given, position) == other.step(ruined, position)
    assert differ(weights(one, "student"), weights(other, "student")) == set()


def test_images_come_to_match_the_teachers_statistics_and_the_student_learns_the_task() -> None:
    engine = engine_of(image_share=0.6, num_blocks=1, block_size=32)
    values = train(engine, 100)
    assert values[59]["deepinversion-statistics"] < 0.2 * values[0]["deepinversion-statistics"]
    assert engine.evaluate() > CHANCE + 0.15


def test_weighing_labels_is_refused() -> None:
    with pytest.raises(UsageError, match="reads no label"):
        METHOD.build(Settings(), replace(TAUGHT, task=Task(weight=0.5)))


def test_it_resumes_in_both_phases() -> None:
    built = program(image_share=0.5)
    assert_resumes(lambda: engine_for(built, teachers=[trained_teacher()]), 6, at=(1, 2, 3, 4))
