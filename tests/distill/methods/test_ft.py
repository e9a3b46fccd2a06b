"""Factor transfer: the distance in NumPy, its invariances, and who is frozen when."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from edgekd.distill.methods.feature.ft import DECODER, PARAPHRASER, factor_distance, relative_error
from edgekd.testing.tiny_networks import tiny_batch
from edgekd.testing.tiny_runs import Stage, engine_of
from edgekd.train.trainable import Position
from tests.distill.building import differ, weights

Array = npt.NDArray[np.float64]
RNG = np.random.default_rng(6)
STUDENT, TEACHER = RNG.normal(size=(5, 4, 3, 3)), RNG.normal(size=(5, 4, 3, 3))


def distance(student: Array, teacher: Array) -> float:
    """Equation 3 with p = 1, as a mean over batch and elements."""
    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        total += np.abs(s / np.sqrt((s**2).sum()) - t / np.sqrt((t**2).sum())).sum()
    return total / student.size


def relative(decoded: Array, features: Array) -> float:
    pairs = zip(decoded, features, strict=True)
    return float(np.mean([((d - f) ** 2).sum() / (f**2).sum() for d, f in pairs]))


def actual(student: Array, teacher: Array) -> float:
    return float(factor_distance(torch.from_numpy(student), torch.from_numpy(teacher)))


def test_distance_is_the_l1_norm_between_normalized_factors() -> None:
    assert actual(STUDENT, TEACHER) == pytest.approx(distance(STUDENT, TEACHER), rel=1e-12)


def test_distance_ignores_the_length_of_each_samples_factors() -> None:
    lengths = np.array([0.1, 1.0, 3.0, 10.0, 200.0])[:, None, None, None]
    assert actual(lengths * STUDENT, TEACHER) == pytest.approx(distance(STUDENT, TEACHER), rel=1e-9)
    assert actual(7 * TEACHER, TEACHER) == pytest.approx(0.0, abs=1e-12)


def test_opposite_factors_are_twice_as_far_as_nothing() -> None:
    normalized = TEACHER / np.sqrt((TEACHER**2).sum(axis=(1, 2, 3), keepdims=True))
    assert actual(-TEACHER, TEACHER) == pytest.approx(2 * np.abs(normalized).mean(), rel=1e-12)


def test_larger_map_is_average_pooled_before_it_is_normalized() -> None:
    large = np.random.default_rng(7).normal(size=(5, 4, 6, 6))
    pooled = large.reshape(5, 4, 3, 2, 3, 2).mean(axis=(3, 5))
    assert actual(STUDENT, large) == pytest.approx(distance(STUDENT, pooled), rel=1e-12)


def test_decoding_error_is_relative_to_each_samples_features() -> None:
    lengths = np.array([0.1, 1.0, 3.0, 10.0, 200.0])[:, None, None, None]
    decoded, features = torch.from_numpy(lengths * STUDENT), torch.from_numpy(lengths * TEACHER)
    assert float(relative_error(decoded, features)) == pytest.approx(relative(STUDENT, TEACHER), rel=1e-9)
    assert float(relative_error(torch.zeros_like(features), features)) == pytest.approx(1.0, rel=1e-12)
    assert float(relative_error(features, features)) == 0.0


def test_dead_features_give_a_finite_error_and_gradient() -> None:
    decoded = torch.full((2, 3), 1e-4, requires_grad=True)
    error = relative_error(decoded, torch.zeros(2, 3))
    error.backward()  # type: ignore[no-untyped-call]
    assert decoded.grad is not None and bool(error.isfinite() & decoded.grad.isfinite().all())


def test_gradient_passes_finite_differences() -> None:
    student = torch.from_numpy(STUDENT[:2]).requires_grad_(True)
    teacher = torch.from_numpy(TEACHER[:2])
    assert torch.autograd.gradcheck(lambda s: factor_distance(s, teacher), (student,))


def test_paraphraser_learns_first_and_alone_and_is_frozen_then() -> None:
    engine = engine_of("ft")
    names = (PARAPHRASER, DECODER, "student", "teacher")
    before = {name: weights(engine, name) for name in names}
    for step in range(3):
        assert set(engine.step(tiny_batch(step), Position(step, 6, 0, 1))) >= {"paraphrase"}
    middle = {name: weights(engine, name) for name in names}
    for step in range(3, 6):
        assert set(engine.step(tiny_batch(step), Position(step, 6, 0, 1))) >= {"task", "ft"}
    after = {name: weights(engine, name) for name in names}
    changed = [[bool(differ(a[n], b[n])) for n in names] for a, b in ((before, middle), (middle, after))]
    assert changed == [[True, True, False, False], [False, False, True, False]]


def test_factors_have_half_the_teachers_channels() -> None:
    stage = Stage("ft")
    features = torch.zeros(2, 16, 2, 2)
    assert stage.live.cast.roles[PARAPHRASER].module(features).shape == (2, 8, 2, 2)
    assert stage.live.cast.roles[DECODER].module(torch.zeros(2, 8, 2, 2)).shape == features.shape
    assert stage.live.cast.adapters["ft"]["translator"](torch.zeros(2, 8, 2, 2)).shape == (2, 8, 2, 2)


def test_terms_compare_the_decoded_and_the_translated_factors_of_the_last_stage() -> None:
    stage = Stage("ft", dtype=torch.float64)
    roles, images = stage.live.cast.roles, tiny_batch(0).views["x"].double()
    with torch.no_grad():
        student, teacher = (roles[role].run(images, ("stage3",))["stage3"] for role in ("student", "teacher"))
        factors = roles[PARAPHRASER].module(teacher)
        decoded = roles[DECODER].module(factors).numpy()
        translated = stage.live.cast.adapters["ft"]["translator"](student).numpy()
    expected = {
        "paraphrase": relative(decoded, teacher.numpy()),
        "ft": distance(translated, factors.numpy()),
    }
    for turn in stage.program.turns:
        for term in turn.terms:
            if term.name != "task":
                assert stage.number(turn, term) == pytest.approx(expected[term.name], rel=1e-9), term.name
