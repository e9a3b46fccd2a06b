"""Codistillation: burn-in, stale copies and the distance, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.distill.methods.answers import Array, softmax
from tests.distill.methods.cohort_tables import LEARNING_RATE, Tables, label_gradient

RNG = np.random.default_rng(6)
NAMES = ("student", "peer1", "peer2")
START = {name: RNG.normal(size=(6, 4)) * 2 for name in NAMES}
STALE = {name: RNG.normal(size=(6, 4)) * 2 for name in NAMES}
LABELS = RNG.integers(4, size=6)


def networks(**settings: Any) -> Tables:
    tables = START | {f"stale-{name}": rows for name, rows in STALE.items()}
    return Tables({"name": "codistillation", "peers": 2, **settings}, tables, LABELS)


def teacher_of(name: str, stale: dict[str, Array]) -> Array:
    others = [softmax(rows) for key, rows in stale.items() if key != name]
    return np.asarray(sum(others) / len(others))


@pytest.mark.parametrize("psi", ["ce", "kl"])
def test_the_distance_is_to_the_mean_prediction_of_the_others_stale_copies(psi: str) -> None:
    values = networks(psi=psi).step()
    for name, rows in START.items():
        target, own = teacher_of(name, STALE), softmax(rows)
        ratio = own if psi == "ce" else own / target
        expected = -(target * np.log(ratio)).sum(axis=1).mean()
        assert values[f"codistillation:{name}"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("psi", ["ce", "kl"])
def test_both_distances_make_the_same_step(psi: str) -> None:
    cohort = networks(psi=psi, burn_in=0.0, weight=0.6)
    cohort.step()
    for name, rows in START.items():
        pull = (softmax(rows) - teacher_of(name, STALE)) / len(rows)
        expected = rows - LEARNING_RATE * (label_gradient(rows, LABELS) + 0.6 * pull)
        np.testing.assert_allclose(cohort.table(name), expected, atol=1e-12)


def test_in_the_burn_in_every_network_learns_from_labels_alone() -> None:
    cohort, tables = networks(burn_in=0.5), dict(START)
    for number in range(2):
        cohort.step(number, of=4)
        tables = {k: rows - LEARNING_RATE * label_gradient(rows, LABELS) for k, rows in tables.items()}
    for name, rows in tables.items():
        np.testing.assert_allclose(cohort.table(name), rows, atol=1e-12)
    cohort.step(2, of=4)
    alone = tables["student"] - LEARNING_RATE * label_gradient(tables["student"], LABELS)
    assert np.abs(cohort.table("student") - alone).max() > 1e-3


def test_copies_are_renewed_every_so_many_steps_and_stay_in_between() -> None:
    cohort = networks(every=3)
    for number in range(5):
        cohort.step(number, of=5)
        if number < 2:
            np.testing.assert_array_equal(cohort.table("stale-peer1"), STALE["peer1"])
        if number == 2:
            renewed = cohort.table("peer1")
        if number >= 2:
            np.testing.assert_array_equal(cohort.table("stale-peer1"), renewed)
    assert not np.array_equal(cohort.table("peer1"), renewed)


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_training_resumes_bit_for_bit_before_and_after_the_burn_in(cut: int) -> None:
    whole, first, second = (networks(every=2, burn_in=0.4) for _ in range(3))
    expected = [whole.step(number, of=6) for number in range(6)]
    for number in range(cut):
        first.step(number, of=6)
    second.engine.load_state(first.engine.state())
    assert [second.step(number, of=6) for number in range(cut, 6)] == expected[cut:]
    assert np.array_equal(second.table("stale-peer2"), whole.table("stale-peer2"))
