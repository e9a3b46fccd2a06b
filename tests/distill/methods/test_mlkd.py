"""Absolute and relative teacher against NumPy derivations of Yu et al. 2019, section 3."""

from __future__ import annotations

import numpy as np
import pytest

from edgekd.core.errors import UsageError
from tests.distill.methods.features import Array, Scene

RNG = np.random.default_rng(18)
STUDENT, TEACHER = {"embedding": RNG.normal(size=(6, 3))}, {"embedding": RNG.normal(size=(6, 5))}


def unit(rows: Array) -> Array:
    return np.array([v / np.linalg.norm(v) for v in rows])


def distances(rows: Array) -> Array:
    return np.array([[np.linalg.norm(v - w) for w in rows] for v in rows])


def frobenius(student: Array, teacher: Array) -> float:
    return float(np.sqrt(((distances(student) - distances(teacher)) ** 2).sum()))


def mapped(scene: Scene) -> Array:
    """The student's embeddings through the linear map of the absolute term."""
    adapter = scene.adapter("mlkd-absolute", "embedding")
    return np.asarray(STUDENT["embedding"] @ adapter["weight"].T + adapter["bias"])


def test_absolute_is_the_mean_norm_between_unit_embeddings_after_a_linear_map() -> None:
    scene = Scene("mlkd", STUDENT, TEACHER)
    errors = np.linalg.norm(unit(mapped(scene)) - unit(TEACHER["embedding"]), axis=1)
    assert scene.loss()["mlkd-absolute"] == pytest.approx(errors.mean(), rel=1e-12)


def test_relative_is_the_frobenius_norm_over_b() -> None:
    expected = frobenius(unit(STUDENT["embedding"]), unit(TEACHER["embedding"])) / 6
    assert Scene("mlkd", STUDENT, TEACHER).loss()["mlkd-relative"] == pytest.approx(expected, rel=1e-12)


def test_weight_of_the_relative_term_is_the_published_one_at_a_batch_of_32() -> None:
    weights = Scene("mlkd", STUDENT, TEACHER).weights()
    assert weights["mlkd-absolute"] == 1.0
    assert weights["mlkd-relative"] == pytest.approx(0.3 * 32)


def test_squared_raw_form_is_the_mean_of_squared_differences() -> None:
    scene = Scene({"name": "mlkd", "form": "squared", "unit": False}, STUDENT, TEACHER)
    values = scene.loss()
    absolute = ((mapped(scene) - TEACHER["embedding"]) ** 2).mean()
    assert values["mlkd-absolute"] == pytest.approx(absolute, rel=1e-12)
    relative = frobenius(STUDENT["embedding"], TEACHER["embedding"]) ** 2 / 36
    assert values["mlkd-relative"] == pytest.approx(relative, rel=1e-12)


def test_equal_sizes_need_no_map_and_agree_without_gradient() -> None:
    scene = Scene("mlkd", TEACHER, TEACHER)
    assert scene.adapter("mlkd-absolute", "embedding") == {}
    assert scene.loss() == {"mlkd-absolute": 0.0, "mlkd-relative": 0.0}
    assert np.array_equal(scene.gradient("embedding"), np.zeros((6, 5)))


def test_batch_of_one_is_refused_by_the_relative_term() -> None:
    with pytest.raises(UsageError, match="`mlkd-relative` compares the samples of a batch"):
        Scene("mlkd", STUDENT, TEACHER).loss([0])
