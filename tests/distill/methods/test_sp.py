"""Similarity-preserving distillation against a NumPy derivation of Tung & Mori 2019, section 3."""

from __future__ import annotations

import numpy as np
import pytest

from edgekd.core.errors import UsageError
from tests.distill.methods.features import Array, Scene

RNG = np.random.default_rng(11)
STUDENT = {f"stage{n}": RNG.normal(size=(6, 2 * n, 4, 4)) for n in (1, 2)}
TEACHER = {f"stage{n}": RNG.normal(size=(6, 5, 3, 3)) for n in (1, 2)}


def expected(student: Array, teacher: Array) -> float:
    """1/b^2 of the squared Frobenius norm of the difference of row-normalized Gram matrices."""
    normalized = []
    for maps in (student, teacher):
        rows = maps.reshape(len(maps), -1)
        gram = np.array([[float(np.dot(v, w)) for w in rows] for v in rows])
        normalized.append(np.array([row / np.sqrt((row**2).sum()) for row in gram]))
    return float(((normalized[1] - normalized[0]) ** 2).sum() / len(student) ** 2)


def test_loss_is_that_of_the_last_stage_with_weight_3000() -> None:
    scene = Scene("sp", STUDENT, TEACHER)
    assert scene.loss()["sp"] == pytest.approx(expected(STUDENT["stage2"], TEACHER["stage2"]), rel=1e-12)
    assert scene.weights()["sp"] == 3000


def test_taps_add_up() -> None:
    taps = {"stage1": "stage2", "stage2": "stage1"}
    pairs = [expected(STUDENT[mine], TEACHER[theirs]) for mine, theirs in taps.items()]
    assert Scene({"name": "sp", "taps": taps}, STUDENT, TEACHER).loss()["sp"] == pytest.approx(sum(pairs))


def test_batch_of_one_is_refused_with_the_need() -> None:
    with pytest.raises(UsageError, match=r"`sp` compares the samples of a batch.*needs 2 and got 1"):
        Scene("sp", STUDENT, TEACHER).loss([0])


def test_it_is_computed_on_the_samples_of_all_processes() -> None:
    (term,) = Scene("sp", STUDENT, TEACHER).program.turns[-1].terms[1:]
    assert term.needs.whole_batch
