"""Noisy student against NumPy: which pseudo-labels count, which view is whose, which pupil teaches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from edgekd.core.errors import UsageError
from edgekd.distill.engine import Engine
from edgekd.distill.methods.chain.noisy_student import METHOD, Settings, pseudo_label_loss, sample_weights
from edgekd.distill.program import Program
from edgekd.distill.validate import validate
from edgekd.testing.tiny_networks import IMAGE_SHAPE, TinyStream, tiny_participant
from edgekd.testing.tiny_runs import trained_teacher
from tests.distill.building import differ, engine_for, train, weights
from tests.distill.methods.watching import (
    TAUGHT,
    answers,
    assert_resumes,
    cross_entropy,
    kl,
    labels,
    logits,
    softmax,
)

RNG = np.random.default_rng(4)
TEACHER, STUDENT = softmax(2 * RNG.normal(size=(9, 4))), RNG.normal(size=(9, 4))
STREAM = TinyStream(("x", "x2"), 12)


def program(**settings: float) -> Program:
    built = METHOD.build(Settings.model_validate(settings), TAUGHT)
    assert isinstance(built, Program)
    return built


def engine_of(**settings: float) -> Engine:
    return engine_for(program(**settings), teachers=[trained_teacher()], streams={"unlabeled": STREAM})


def reference_weights(probabilities: npt.NDArray[np.float64], least: float, balance: bool) -> list[float]:
    """Sample by sample, as the method is described."""
    predicted = [int(row.argmax()) if row.max() >= least else None for row in probabilities]
    kept = [each for each in predicted if each is not None]
    if balance:
        return [0.0 if each is None else 1 / len(set(kept)) / kept.count(each) for each in predicted]
    return [0.0 if each is None else 1 / len(kept) for each in predicted]


@pytest.mark.parametrize("balance", [True, False])
@pytest.mark.parametrize("least", [0.0, 0.5, 0.7])
def test_weights_are_those_of_the_confident_images(least: float, balance: bool) -> None:
    expected = reference_weights(TEACHER, least, balance)
    actual = sample_weights(torch.from_numpy(TEACHER), least, balance)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-12)
    assert float(actual.sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("hard", [True, False])
def test_loss_is_the_weighted_divergence_from_the_pseudo_labels(hard: bool) -> None:
    if hard:
        losses = -np.log(softmax(STUDENT)[np.arange(9), TEACHER.argmax(axis=1)])
    else:
        losses = kl(TEACHER, softmax(STUDENT))
    expected = losses @ np.array(reference_weights(TEACHER, 0.5, True))
    teacher, student = torch.from_numpy(TEACHER), torch.from_numpy(STUDENT)
    actual = pseudo_label_loss(student, teacher, hard=hard, confidence=0.5, balance=True)
    assert float(actual) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("balance", [True, False])
def test_no_confident_image_means_no_loss_and_no_gradient(balance: bool) -> None:
    student = torch.from_numpy(STUDENT).requires_grad_(True)
    loss = pseudo_label_loss(student, torch.full((9, 4), 0.25), hard=False, confidence=0.3, balance=balance)
    (gradient,) = torch.autograd.grad(loss, student)
    assert float(loss.detach()) == 0.0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_the_pupil_learns_one_view_of_the_unlabeled_images_and_the_teacher_labels_another() -> None:
    engine = engine_of(confidence=0.0, balance=False)
    views = STREAM.batch(0).views
    labeled = logits(engine, "student", 0, learns=True)
    teacher = softmax(answers(engine, "teacher", views["x"]))
    pupil = softmax(answers(engine, "student", views["x2"], learns=True))
    (values,) = train(engine, 4, steps=[0])
    expected = kl(teacher, pupil).mean()
    assert values["noisy-student:student"] == pytest.approx(expected, rel=1e-4)
    assert values["total"] == pytest.approx(cross_entropy(labeled, labels(0)) + expected, rel=1e-4)


def test_the_second_pupil_learns_from_the_first() -> None:
    engine = engine_of(iterations=2, confidence=0.0, balance=False)
    first = weights(engine, "generation1")
    assert differ(first, weights(engine, "student")), "every pupil starts anew"
    train(engine, 20, steps=range(10))
    first = weights(engine, "generation1")
    views = STREAM.batch(10).views
    teacher = softmax(answers(engine, "generation1", views["x"]))
    pupil = softmax(answers(engine, "student", views["x2"], learns=True))
    values = train(engine, 20, steps=range(10, 20))[0]
    assert values["noisy-student:student"] == pytest.approx(kl(teacher, pupil).mean(), rel=1e-4)
    assert differ(first, weights(engine, "generation1")) == set(), "it rests once it teaches"


def test_it_asks_for_the_unlabeled_stream_and_its_views() -> None:
    built = program()
    assert built.views == ("x",)
    assert built.streams == {"unlabeled": ("x", "x2")}
    given = {"student": tiny_participant(), "teacher": tiny_participant(8)}
    with pytest.raises(UsageError, match="unlabeled"):
        validate(built, given, IMAGE_SHAPE)
    validate(built, given, IMAGE_SHAPE, streams=("unlabeled",))


def test_it_resumes_in_every_iteration() -> None:
    assert_resumes(lambda: engine_of(iterations=2), 6, at=(1, 3, 4))
