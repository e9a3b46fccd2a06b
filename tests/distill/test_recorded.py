"""Recorded answers of frozen roles: the same numbers as the live role, once per image and variant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgekd.data.batch import Batch
from edgekd.distill.cast import tap_shapes
from edgekd.distill.compose import build_program
from edgekd.distill.engine import Engine
from edgekd.distill.participant import Participant
from edgekd.distill.program import LOGITS, Program
from edgekd.distill.recorded import LargestLogits, Recorded, Recorder, Whole, codecs_for, recordable
from edgekd.distill.settings import DistillSettings
from edgekd.testing.distill_contract import engine_of, trained_teacher, validation_arrays
from edgekd.testing.tiny_networks import IMAGE_SHAPE, tiny_images, tiny_participant
from edgekd.train.precision import Precision
from edgekd.train.trainable import Position
from tests.distill.building import RULES, make_engine

PRECISION = Precision("fp32", "cpu")


@dataclass
class Pool:
    """40 images; variant v of view w is the image plus a constant that only (v, w) decides."""

    num_images: int = 40
    asked: list[tuple[str, int]] = field(default_factory=list)

    def images(self, indices: Tensor, view: str, variant: int) -> Tensor:
        self.asked.append((view, variant))
        shift = 0.05 * variant + 0.02 * len(view)
        return (tiny_images(self.num_images, seed=3)[0][indices] + shift).clamp(0, 1)

    def batch(self, indices: list[int], variant: int | None, views: tuple[str, ...] = ("x",)) -> Batch:
        index = torch.tensor(indices)
        shown = {view: self.images(index, view, variant or 0) for view in views}
        return Batch(shown, tiny_images(self.num_images, seed=3)[1][index], index, variant)


def recorded(folder: Path, pool: Pool, codecs: Mapping[str, Any] | None = None) -> Recorded:
    return Recorded(
        trained_teacher(),
        codecs or {LOGITS: Whole((4,))},
        pool=pool,
        folder=folder,
        precision=PRECISION,
        emit=lambda event: None,
    )


@pytest.mark.parametrize(("view", "variant"), [("x", 0), ("x", 2), ("x2", 2)])
def test_answers_are_the_live_ones(tmp_path: Path, view: str, variant: int) -> None:
    pool = Pool()
    batch = pool.batch([7, 3, 39, 0], variant, views=(view,))
    taps = (LOGITS, "embedding", "stage1")
    shapes = tap_shapes({"teacher": trained_teacher()}, IMAGE_SHAPE)
    codecs = {tap: Whole(shapes["teacher", tap]) for tap in taps}
    found = recorded(tmp_path, pool, codecs).read(batch, view, taps)
    assert found is not None
    with torch.no_grad():
        live = trained_teacher()
        live.module.eval()
        expected = live.run(batch.views[view], taps)
    for tap, values in expected.items():
        torch.testing.assert_close(found[tap], values, atol=1e-6, rtol=1e-5)


def test_every_variant_is_computed_once(tmp_path: Path) -> None:
    pool = Pool()
    batches = [pool.batch([1, 2], variant) for variant in (0, 1, 0, 1)]
    pool.asked.clear()
    answers = recorded(tmp_path, pool)
    for batch in batches:
        answers.read(batch, "x", [LOGITS])
    assert pool.asked == [("x", 0), ("x", 1)]


def test_another_process_reads_what_is_on_file(tmp_path: Path) -> None:
    pool = Pool()
    batch = pool.batch([5, 6], 1)
    first = recorded(tmp_path, pool).read(batch, "x", [LOGITS])
    pool.asked.clear()
    second = recorded(tmp_path, pool).read(batch, "x", [LOGITS])
    assert first is not None and second is not None
    assert torch.equal(first[LOGITS], second[LOGITS]) and pool.asked == []


def test_a_file_that_was_cut_short_is_recorded_anew(tmp_path: Path) -> None:
    pool = Pool()
    batch = pool.batch([5, 6], 1)
    first = recorded(tmp_path, pool).read(batch, "x", [LOGITS])
    (path,) = tmp_path.glob("*.npy")
    path.write_bytes(path.read_bytes()[:-40])
    second = recorded(tmp_path, pool).read(batch, "x", [LOGITS])
    assert first is not None and second is not None and torch.equal(first[LOGITS], second[LOGITS])


def test_a_batch_that_will_not_come_again_is_not_read(tmp_path: Path) -> None:
    pool = Pool()
    assert recorded(tmp_path, pool).read(pool.batch([1], None), "x", [LOGITS]) is None
    assert list(tmp_path.iterdir()) == []


def test_largest_logits_keep_their_probabilities_and_share_the_rest() -> None:
    """Against NumPy: softmax over all classes; the rest evenly divided."""
    logits = np.random.default_rng(0).normal(size=(6, 50)) * 3
    codec = LargestLogits(kept=8, num_classes=50)
    decoded = codec.decode(codec.encode(torch.from_numpy(logits)))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    largest = np.argsort(-logits, axis=1)[:, :8]
    expected = np.empty_like(probabilities)
    kept = np.take_along_axis(probabilities, largest, axis=1)
    expected[:] = (1 - kept.sum(axis=1, keepdims=True)) / 42
    np.put_along_axis(expected, largest, kept, axis=1)
    np.testing.assert_allclose(torch.softmax(decoded, dim=1).numpy(), expected, rtol=1e-9)
    np.testing.assert_array_equal(np.take_along_axis(decoded.numpy(), largest, axis=1).argmax(1), 0)


def test_answers_are_as_exact_as_the_space_allows() -> None:
    def fitted(num_floats: int, **widths: int) -> Any:
        shapes = {tap: (width,) for tap, width in widths.items()}
        return codecs_for(shapes, num_rows=100, max_bytes=100 * 4 * num_floats)

    assert fitted(10, logits=10) == {LOGITS: Whole((10,))}
    assert fitted(65, logits=1000) == {LOGITS: LargestLogits(32, 1000)}
    assert fitted(20, logits=1000) is None
    assert fitted(65, embedding=512) is None
    assert fitted(577, logits=1000, embedding=512) == {
        LOGITS: LargestLogits(32, 1000),
        "embedding": Whole((512,)),
    }


def program_of(*methods: str) -> Program:
    taps = tuple(tiny_participant().taps)
    settings = DistillSettings.model_validate({"method": list(methods)})
    return build_program(settings, num_teachers=1, student_taps=taps, teacher_taps=[taps])


def test_only_frozen_roles_are_recorded() -> None:
    shapes = tap_shapes({"student": tiny_participant(), "teacher": trained_teacher()}, IMAGE_SHAPE)
    assert recordable(program_of("kd"), shapes) == {"teacher": {LOGITS: (4,)}}
    assert recordable(program_of("none"), shapes) == {}
    with_maps = recordable(program_of("kd", "at"), shapes)["teacher"]
    assert with_maps[LOGITS] == (4,) and len(with_maps) > 1
    assert {len(shape) for tap, shape in with_maps.items() if tap != LOGITS} == {3}
    assert recordable(program_of("dml"), shapes) == {}


def test_roles_that_are_not_fed_images_are_left_alone(tmp_path: Path) -> None:
    """A discriminator beside the teacher: only the teacher is recorded."""
    pool = Pool()
    engine = engine_with(tmp_path, pool, "psn")
    trained(engine, pool, "task")
    assert len(list(tmp_path.iterdir())) == 1


def engine_with(folder: Path | None, pool: Pool, method: str = "kd") -> Engine:
    recorder = Recorder(pool, 2, folder, {"test": 1}, lambda event: None) if folder else None
    return engine_of_teacher(trained_teacher(), recorder, method)


def engine_of_teacher(teacher: Participant, recorder: Recorder | None, method: str = "kd") -> Engine:
    return make_engine(
        program_of(method),
        student=tiny_participant(seed=3),
        teachers=[teacher],
        validation=validation_arrays(),
        image_shape=IMAGE_SHAPE,
        rules=RULES,
        seed=3,
        recorder=recorder,
    )


def trained(engine: Engine, pool: Pool, term: str = "kd") -> list[float]:
    rows = [list(range(start, start + 10)) for start in (0, 10, 20, 30)]
    batches = [pool.batch(rows[step % 4], step // 4 % 2) for step in range(12)]
    return [engine.step(batch, Position(n, 12, 0, 1))[term] for n, batch in enumerate(batches)]


def test_training_with_recorded_answers_is_training_with_a_live_teacher(tmp_path: Path) -> None:
    pool = Pool()
    live, recording = engine_with(None, pool), engine_with(tmp_path, pool)
    assert trained(recording, pool) == pytest.approx(trained(live, pool), rel=1e-4)
    assert live.cache.num_runs == {"student": 1, "teacher": 1}
    assert recording.cache.num_runs == {"student": 1}


def test_recorded_maps_train_as_live_ones_do(tmp_path: Path) -> None:
    pool = Pool()
    live, recording = engine_with(None, pool, "at"), engine_with(tmp_path, pool, "at")
    assert trained(recording, pool, "at") == pytest.approx(trained(live, pool, "at"), rel=1e-4)
    assert recording.cache.num_runs == {"student": 1}


def test_methods_that_read_other_taps_share_what_is_on_file(tmp_path: Path) -> None:
    pool = Pool()
    trained(engine_with(tmp_path, pool, "kd"), pool)
    (folder,) = tmp_path.iterdir()
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    pool.asked.clear()
    both = engine_of_teacher(
        trained_teacher(), Recorder(pool, 2, tmp_path, {"test": 1}, lambda event: None), "at"
    )
    trained(both, pool, "at")
    assert list(tmp_path.iterdir()) == [folder]
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert before.items() < after.items()


def test_other_weights_are_never_answered_from_the_file(tmp_path: Path) -> None:
    pool = Pool()
    trained(engine_with(tmp_path, pool), pool)
    assert len(list(tmp_path.iterdir())) == 1
    other = engine_of("kd")
    other_teacher = other.roles["teacher"]
    with torch.no_grad():
        next(other_teacher.module.parameters()).mul_(1.5)
    recorder = Recorder(pool, 2, tmp_path, {"test": 1}, lambda event: None)
    engine = engine_of_teacher(other_teacher, recorder)
    trained(engine, pool)
    assert len(list(tmp_path.iterdir())) == 2


def test_answers_that_do_not_fit_leave_the_role_live_and_say_so(tmp_path: Path) -> None:
    told: list[str] = []
    pool = Pool()
    recorder = Recorder(pool, 2, tmp_path, {}, lambda event: told.append(event["text"]), max_bytes=100)
    engine = engine_of_teacher(trained_teacher(), recorder)
    trained(engine, pool)
    assert engine.cache.num_runs["teacher"] == 1
    assert any("teacher" in text and "live" in text for text in told)
