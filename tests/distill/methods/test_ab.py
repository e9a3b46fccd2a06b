"""Activation boundaries: hinge and masked form in NumPy, and what each phase trains."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
import torch

from edgekd.distill.methods.feature.ab import boundary_distance
from edgekd.testing.tiny_networks import tiny_batch
from edgekd.testing.tiny_runs import engine_of
from edgekd.train.trainable import Position
from tests.distill.building import differ, weights

Array = npt.NDArray[np.float64]
RNG = np.random.default_rng(5)
STUDENT, TEACHER = 2 * RNG.normal(size=(3, 4, 5, 5)), RNG.normal(size=(3, 4, 5, 5))
TEACHER[0, 0] = 0.0


def distance(student: Array, teacher: Array, margin: float) -> float:
    return float(boundary_distance(torch.from_numpy(student), torch.from_numpy(teacher), margin))


@pytest.mark.parametrize("margin", [0.5, 1.0])
def test_distance_is_the_squared_norm_of_equation_6_over_the_elements(margin: float) -> None:
    """rho(t) relu(mu - s) + (1 - rho(t)) relu(mu + s), rho(t) = 1 where t > 0."""
    fires = (TEACHER > 0).astype(float)
    hinge = fires * np.maximum(margin - STUDENT, 0) + (1 - fires) * np.maximum(margin + STUDENT, 0)
    assert distance(STUDENT, TEACHER, margin) == pytest.approx((hinge**2).mean(), rel=1e-12)


def test_distance_equals_the_masked_form_of_the_authors_code() -> None:
    total = 0.0
    for s, t in zip(STUDENT.ravel(), TEACHER.ravel(), strict=True):
        if t <= 0 and s > -1:
            total += (s + 1) ** 2
        if t > 0 and s <= 1:
            total += (s - 1) ** 2
    assert distance(STUDENT, TEACHER, 1.0) == pytest.approx(total / STUDENT.size, rel=1e-12)


def test_student_beyond_the_margin_on_the_right_side_costs_nothing() -> None:
    student = np.where(TEACHER > 0, 1.0, -1.0) * (1.0 + np.abs(STUDENT))
    assert distance(student, TEACHER, 1.0) == 0.0


def test_only_the_sign_of_the_teacher_counts() -> None:
    assert distance(STUDENT, 7 * TEACHER, 1.0) == distance(STUDENT, TEACHER, 1.0)


def test_gradient_passes_finite_differences() -> None:
    student = torch.from_numpy(STUDENT).requires_grad_(True)
    teacher = torch.from_numpy(TEACHER)
    assert torch.autograd.gradcheck(lambda s: boundary_distance(s, teacher, 1.0), (student,))


def test_first_phase_trains_the_trunk_alone_and_the_second_on_labels_alone() -> None:
    engine = engine_of("ab")
    states, phases = [weights(engine, "student")], []
    for step in range(4):
        values = engine.step(tiny_batch(step), Position(step, 4, 0, 1))
        states.append(weights(engine, "student"))
        phases.append(set(values) - {"total", "learning_rate"})
    assert phases == [{"ab"}, {"ab"}, {"task"}, {"task"}]
    classifier = [{key for key in differ(*pair) if "linear" in key} for pair in pairwise(states)]
    assert [bool(changed) for changed in classifier] == [False, False, True, True]
    assert "stages.0.0.weight" in differ(states[0], states[1])


def test_more_neurons_fire_with_the_teachers_after_the_first_phase() -> None:
    def agreement() -> float:
        with torch.no_grad():
            connect = engine.adapters["ab"]["stage3:pre"]
            images = tiny_batch(99).views["x"]
            student = engine.roles["student"].run(images, ("stage3:pre",))["stage3:pre"]
            teacher = engine.roles["teacher"].run(images, ("stage3:pre",))["stage3:pre"]
            return float(((connect(student) > 0) == (teacher > 0)).double().mean())

    engine = engine_of("ab")
    before = agreement()
    for step in range(60):
        engine.step(tiny_batch(step), Position(step, 120, 0, 1))
    assert agreement() > before + 0.1
